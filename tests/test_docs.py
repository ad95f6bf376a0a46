"""The generated pages of docs/ are what docs/generate.py makes of the source as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["tables.md", "cli.md"])
def test_the_generated_page_is_current(page: str) -> None:
    made = runpy.run_path(str(DOCS / "generate.py"))["PAGES"][page]()
    assert (DOCS / page).read_text(encoding="utf-8") == made, "run `make docs`"
