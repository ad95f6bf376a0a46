"""The generated pages, and the report in the README, are what docs/generate.py makes of the source as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("page", ["docs/tables.md", "docs/cli.md", "README.md"])
def test_the_generated_page_is_current(page: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"][ROOT / page]()
    assert (ROOT / page).read_text(encoding="utf-8") == made, "run `make docs`"
