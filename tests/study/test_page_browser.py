"""A study's page in a real browser: every section and chart, no complaint, no request, hostile texts harmless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import chromium, draw_all, opened
from tests.study import test_payoff, test_study_report, test_sweep
from tetrace.study.report import write


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def check(browser: Any, folder: Path, sections: set[str], width: int = 1280) -> Any:
    shown = opened(browser, folder / "report.html", width)
    page = shown.page
    found = page.eval_on_selector_all("main > section", "all => all.map(one => one.id)")
    assert sections <= set(found), found
    empty = page.eval_on_selector_all(
        "main > section", "all => all.filter(one => one.children.length < 2).map(one => one.id)"
    )
    assert empty == []
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert shown.quiet, (shown.complaints, shown.requests)
    return page


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_study_with_recordings(browser: Any, tmp_path: Path, width: int) -> None:
    folder, of = test_study_report.stack(tmp_path)
    write(folder, of)
    sections = {
        "measured",
        "note",
        "claims",
        "failed",
        "why",
        "recorded",
        "startup",
        "clocks",
        "environment",
        "meanings",
    }
    page = check(browser, folder, sections, width)
    assert page.text_content("#verdict").startswith("Fastest: graphs, 3.000 ms a step")
    # The explanation's table has its total, and the chart of recorded steps a bar for each recording.
    assert "100.0%" in page.text_content("#why tfoot")
    assert page.locator("#recorded .plot .ytick").count() == 3
    assert page.locator("#measured .plot .ytick").count() == 3
    assert page.locator("#failed pre").inner_text() == "line one\nline two"
    page.close()


def test_the_page_of_a_sweep(browser: Any, tmp_path: Path) -> None:
    material, _ = test_sweep.swept(tmp_path)
    write(material.folder, material.study)
    page = check(browser, material.folder, {"measured", "sweeps"})
    assert page.locator("#sweeps .plot .scatterlayer .trace").count() == 3
    assert "flash becomes faster than fused at seq between 512 and 1,024, interpolated 790" in page.text_content(
        "#sweeps"
    )
    page.close()


def test_hostile_texts_stay_texts(browser: Any, tmp_path: Path) -> None:
    folder, of = test_study_report.hostile(tmp_path)
    write(folder, of)
    page = check(browser, folder, {"measured", "failed", "environment"})
    assert page.evaluate("document.querySelectorAll('main script, main a[href^=http]').length") == 0
    assert "<script>alert(1)</script>" in page.text_content("main")
    page.close()


def test_predictions_are_on_the_page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    material = test_payoff.material.__wrapped__(tmp_path_factory)
    write(material.folder, material.study)
    page = check(browser, material.folder, {"payoff", "sweeps", "why"})
    assert "Predicted: fp8 is slower than none at batch 2, faster from batch" in page.text_content("#payoff")
    page.close()
