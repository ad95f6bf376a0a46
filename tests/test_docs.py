"""The generated pages, and the report in the README, are what docs/generate.py makes of the source as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from tetrace.cli.main import tetrace

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("page", ["docs/tables.md", "docs/cli.md", "README.md"])
def test_the_generated_page_is_current(page: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"][ROOT / page]()
    assert (ROOT / page).read_text(encoding="utf-8") == made, "run `make docs`"


def test_what_whatif_says_is_what_it_prints() -> None:
    run = ROOT / "profiles" / "stability" / "results" / "h200" / "custom-e4m3-0.tetrace"
    done = CliRunner().invoke(tetrace, ["fp8", "whatif", str(run), "margin=1"], env={"COLUMNS": "100"})
    page = (ROOT / "docs" / "fp8.md").read_text(encoding="utf-8")
    shown = page[page.index("$ tetrace fp8 whatif run.tetrace margin=1\n") :].split("```")[0].split("\n", 1)[1]
    assert shown.startswith("margin=1 against what ran")
    assert shown in done.stdout
