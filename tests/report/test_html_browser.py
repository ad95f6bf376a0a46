"""HTML reports in a real browser: of each recording under profiles/, and of one with 20,000 kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tetrace
from tests.fp8.made import Made
from tests.report.browser import Opened, chromium, draw_all, opened, wait_until
from tests.report.runs import DATA, breakdown_of
from tests.report.test_html import hostile
from tetrace.breakdown import fp8_maps
from tetrace.breakdown.compare import compare_all
from tetrace.report.html import Html
from tetrace.report.html.comparison import html_page as comparison_page
from tetrace.report.reporter import Options
from tetrace.trace.trace import Trace

ROOT = Path(__file__).parent.parent.parent
STUDIES = sorted((ROOT / "profiles").glob("*/results/h200"))


# `make test-pages` opens all that there are, and a large one.
ALL_PAGES = bool(os.environ.get("TETRACE_ALL_PAGES"))
KERNELS = 1_000_000 if ALL_PAGES else 20_000


def recordings() -> list[Path]:
    """Those made by hand, and one of each study: the others differ little, and there are many of them."""
    of_studies = [sorted(study.glob("*.tetrace")) for study in STUDIES]
    if not ALL_PAGES:
        of_studies = [runs[-1:] for runs in of_studies]
    by_hand = sorted((ROOT / "profiles").glob("*/results/nvidia-*/*.tetrace"))
    return [*by_hand, *sorted(DATA.glob("*.tetrace")), *(run for runs in of_studies for run in runs)]


RECORDINGS = recordings()
ALWAYS = {"findings", "steps", "activity", "timeline", "kernels", "modules", "launches", "gemms", "attention", "fp8"}
MOST_BYTES = 6_000_000
# Models that multiply their attention themselves.
BY_HAND = {"stability-e4m3", "vanilla-by_hand"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def written(trace: Trace, file: Path) -> Path:
    """The report of `trace` in `file`."""
    text = Html(Options(version="test")).documents(tetrace.analyze(trace))[""]
    assert isinstance(text, str)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def report(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The recording of the README, for the tests that use a page."""
    run = ROOT / "profiles/layer_stack/results/nvidia-h200/fp8-delayed.tetrace"
    return opened(browser, written(tetrace.load(run), tmp_path_factory.mktemp("report") / "report.html"))


def check_sections(report: Opened, wanted: set[str]) -> None:
    page = report.page
    found = page.eval_on_selector_all("main > section", "all => all.map(one => one.id)")
    assert wanted <= set(found), f"sections {found}"
    empty = page.eval_on_selector_all(
        "main > section", "all => all.filter(one => one.children.length < 2).map(one => one.id)"
    )
    assert empty == []
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert report.quiet, (report.complaints, report.requests)


@pytest.mark.parametrize("run", RECORDINGS, ids=lambda run: run.relative_to(ROOT).with_suffix("").as_posix())
def test_every_section_of_each_recording(browser: Any, run: Path, tmp_path: Path) -> None:
    trace = tetrace.load(run)
    file = written(trace, tmp_path / "report.html")
    report = opened(browser, file)
    ready, size = int(report.page.evaluate("document.documentElement.dataset.ready")), file.stat().st_size
    sys.stdout.write(f"{run.relative_to(ROOT)}: {size / 1e6:.2f} MB, charts ready after {ready} ms\n")
    assert size < MOST_BYTES
    ranks = {"ranks"} if "straggler" in run.name else set()
    quantization = {"quantization"} if "fp8" in run.name or "e4m3" in run.name else set()
    by_hand = run.stem in BY_HAND or run.stem.startswith("custom-")
    wanted = ALWAYS - {"attention"} if by_hand else ALWAYS
    check_sections(report, wanted | ranks | quantization | {"environment", "definitions", "more"})
    if trace.rows("fp8_scales"):
        assert report.page.locator("#fp8 .heatmaplayer").count() == 1
    report.page.close()


def test_many_kernels(browser: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.sqlite"
    command = [
        sys.executable,
        ROOT / "benchmarks/inflate.py",
        DATA / "te4-fp8.sqlite",
        large,
        "--kernels",
        str(KERNELS),
    ]
    subprocess.run(command, check=True, capture_output=True)
    began = time.perf_counter()
    file = written(tetrace.load(large), tmp_path / "report.html")
    made = time.perf_counter() - began
    report = opened(browser, file)
    ready, size = report.page.evaluate("document.documentElement.dataset.ready"), file.stat().st_size
    sys.stdout.write(f"{KERNELS:,} kernels: made in {made:.1f} s, {size / 1e6:.2f} MB, charts ready after {ready} ms\n")
    assert size < MOST_BYTES
    check_sections(report, ALWAYS)
    report.page.close()


def test_fp8_statistics(browser: Any, tmp_path: Path) -> None:
    run = Made()
    for step in range(6):
        scale = 64.0 if step < 4 else 640.0
        for layer in range(4):
            values = [[0.5 * (layer + 1), -1.0, 1e-6], [2.0, 0.0, 3.0]]
            run.tensor(step, f"layers.{layer}.fc1.input", values, scale=scale)
        run.update(step, "layers.3.fc1.input", scale=scale, next_scale=scale, amax=3.0)
    report = opened(browser, written(run.trace(), tmp_path / "report.html"))
    page = report.page
    check_sections(report, {"fp8", "held"})
    section = page.locator("#fp8")
    assert section.locator(".plot").count() == 2
    assert "problem" in section.locator(".lead").inner_text()
    section.locator("select").first.select_option(label="Clipped")
    section.locator("select").last.select_option(label="layers.2.fc1.input")
    draw_all(page)
    assert section.locator(".heatmaplayer image, .heatmaplayer .hm").count() >= 1
    chosen = section.locator("select").last
    chosen.select_option(index=0)
    cells = section.locator(".nsewdrag").first
    for layer in (3, 1):
        cells.scroll_into_view_if_needed()
        box = cells.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] * (layer + 0.5) / 4)
        section.locator(".hoverlayer .hovertext").filter(has_text=f"layers.{layer}").wait_for()
        page.mouse.down()
        page.mouse.up()
        section.get_by_label(f"Amax and scale of layers.{layer}.fc1.input").wait_for()
        assert chosen.evaluate("select => select.selectedOptions[0].text") == f"layers.{layer}.fc1.input"
    assert report.quiet, report.complaints
    page.close()


def test_hostile_names(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(str(Html(Options()).documents(breakdown_of(hostile()))[""]), encoding="utf-8")
    report = opened(browser, file)
    page = report.page
    draw_all(page)
    page.locator("#activity .zoom").focus()
    for key in ("ArrowDown", "Enter", "ArrowDown", "Enter", "ArrowDown"):
        page.keyboard.press(key)
    for name in page.locator("#kernels .long").all():
        name.click()
    assert page.locator("#kernels td", has_text="<script>alert(1)</script>").count() == 1
    assert page.locator("main img, main script, main iframe, main a:not([href^='#'])").count() == 0
    assert page.locator("svg a").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert report.quiet, report.complaints
    page.close()


def test_the_verdict_is_on_the_first_screen(report: Opened) -> None:
    page = report.page
    assert (
        page.locator("h1").inner_text().startswith("Launch-bound: the GPU works 3.17 ms of a step that takes 17.0 ms")
    )
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    assert page.locator(".figures").first.bounding_box()["y"] < 700
    parts = page.locator(".stack").locator("> span").count()
    assert parts == page.locator(".wall .legend li").count() > 5


def test_sorting(report: Opened) -> None:
    table = report.page.locator("#kernels .table")
    head = table.get_by_role("columnheader", name="count")
    shown = table.locator("tbody tr td:nth-child(4)")
    for direction, reverse in (("descending", True), ("ascending", False)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        counts = [float(words.replace(",", "")) for words in shown.all_inner_texts()]
        assert counts == sorted(counts, reverse=reverse)
        assert len(set(counts)) > 2
    words = table.get_by_role("columnheader", name="kernel")
    words.get_by_role("button").press("Enter")
    names = [name.lower() for name in table.locator("tbody tr td:nth-child(1)").all_inner_texts()]
    assert names[0] <= names[5] <= names[10]


def test_search_and_copy(report: Opened) -> None:
    page = report.page
    table = page.locator("#kernels .table")
    search = table.get_by_role("searchbox")
    search.fill("cast_transpose quantization")
    rows = table.locator("tbody tr")
    assert 0 < rows.count() < 10
    assert all("cast_transpose" in row for row in rows.all_inner_texts())
    assert f"{rows.count()} of " in table.locator(".many").inner_text()
    page.evaluate("navigator.clipboard.writeText = text => { window.taken = text; return Promise.resolve(); }")
    table.get_by_role("button", name="Copy").click()
    lines = page.evaluate("window.taken").rstrip("\n").split("\n")
    assert len(lines) == rows.count() + 1
    assert lines[0].split("\t")[:2] == ["kernel", "ms/step"]
    assert all("cast_transpose" in line.split("\t")[0] for line in lines[1:])
    search.fill("")
    table.locator(".more").click()
    assert rows.count() == 44


def test_the_icicle_zooms(report: Opened) -> None:
    page = report.page
    draw_all(page)
    frame, crumbs = page.locator("#activity .zoom"), page.locator("#activity .crumbs")
    path = crumbs.locator("button")
    assert path.all_inner_texts() == ["GPU activity"]
    frame.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert path.all_inner_texts() == ["GPU activity", "forward"]
    assert page.evaluate("document.querySelector('#activity .plot').data[0].level") != "n0"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert path.all_inner_texts() == ["GPU activity", "forward", "layers"]
    page.keyboard.press("Escape")
    assert path.all_inner_texts() == ["GPU activity", "forward"]
    path.first.click()
    assert path.all_inner_texts() == ["GPU activity"]
    for _ in range(20):
        page.wait_for_timeout(800)  # plotly moves its parts, longer on a busy machine, before it takes clicks again
        part = page.locator("#activity g.slice", has_text="backward").locator("path")
        part.scroll_into_view_if_needed()  # charts above may have been drawn meanwhile
        box = part.bounding_box()
        page.mouse.click(box["x"] + 60, box["y"] + 40)
        page.wait_for_timeout(800)
        if path.count() == 2:
            break
    assert path.all_inner_texts() == ["GPU activity", "backward"]
    assert report.quiet, report.complaints


def test_light_and_dark(report: Opened) -> None:
    page = report.page
    background = "getComputedStyle(document.body).backgroundColor"
    axis = "getComputedStyle(document.querySelector('#steps .xtick text')).fill"
    light, light_axis = page.evaluate(background), page.evaluate(axis)
    page.locator("#theme").click()
    assert page.evaluate(background) != light
    wait_until(page, f"{axis} !== '{light_axis}'")
    page.locator("#theme").press("Enter")
    assert page.evaluate(background) == light


def test_what_a_number_means_is_shown_on_focus(report: Opened) -> None:
    page = report.page
    page.locator(".figures .term", has_text="FP8 coverage").focus()
    assert (
        page.locator("#tip")
        .inner_text()
        .startswith("FP8 coverage is the share of GEMM time whose both operands are FP8")
    )
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_paper_shows_every_chart_and_no_buttons(report: Opened) -> None:
    page = report.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wait_until(page, "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg.main-svg'))")
    assert not page.locator("#theme").is_visible()
    assert not page.locator(".contents").is_visible()
    widths = page.eval_on_selector_all(".plot svg.main-svg", "all => all.map(one => one.getBoundingClientRect().width)")
    assert widths
    assert max(widths) <= 700
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth") == 718
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    wait_until(page, "document.querySelector('#steps svg.main-svg').getBoundingClientRect().width > 700")
    assert report.quiet, report.complaints


# Numbers, and words of heads, that are on more than one line; and tables that are wider than the paper.
BROKEN = r"""() => {
  const broken = [];
  for (const cell of document.querySelectorAll("td.number, th button")) {
    const text = [...cell.childNodes].find((node) => node.nodeType === Node.TEXT_NODE);
    for (const word of text ? text.data.matchAll(cell.tagName === "TD" ? /.+/g : /[^\s-]+/g) : []) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
    }
  }
  const wide = [...document.querySelectorAll("table")].filter((table) => table.getBoundingClientRect().right > 719);
  return [...broken, ...wide.map((table) => table.caption.textContent)];
}"""


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_no_number_is_broken_on_paper(browser: Any, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "page.html"
    if kind == "report":
        written(tetrace.load(DATA / "stability-e4m3.tetrace"), file)
    else:
        runs = [tetrace.analyze(tetrace.load(DATA / f"te4-{name}.sqlite")) for name in ("bf16", "fp8")]
        file.write_text(comparison_page(compare_all(runs), "test"), encoding="utf-8")
    shown = opened(browser, file, width=718)
    page = shown.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    tables = 12 if kind == "report" else 10
    wait_until(page, f"document.querySelectorAll('table').length >= {tables}")
    assert page.evaluate(BROKEN) == []
    sizes = page.eval_on_selector_all("table", "all => all.map(one => parseFloat(getComputedStyle(one).fontSize))")
    assert min(sizes) > 6
    assert page.evaluate("document.documentElement.scrollWidth") == 718
    assert shown.quiet, shown.complaints
    page.close()


def test_a_cell_without_a_history_says_so(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_maps, "_MOST_POINTS", 2 * (3 + fp8_maps._POINTS_BESIDE))
    run = Made()
    for step in range(3):
        for layer in range(4):
            run.tensor(step, f"layers.{layer}.fc1.input", [[0.5, -1.0, 1e-6], [2.0, 0.0, 3.0]], scale=64.0)
    report = opened(browser, written(run.trace(), tmp_path / "report.html"))
    page, section = report.page, report.page.locator("#fp8")
    draw_all(page)
    assert section.locator(".pick").last.inner_text().endswith("2 of 4 tensors; 2 are left out")
    cells, shown = section.locator(".nsewdrag").first, []
    for layer in range(4):
        cells.scroll_into_view_if_needed()
        box = cells.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] * (layer + 0.5) / 4)
        hover = section.locator(".hoverlayer .hovertext").filter(has_text=f"layers.{layer}")
        hover.wait_for()
        shown.append("not in this file" in hover.text_content())
        page.mouse.down()
        page.mouse.up()
        if shown[-1]:
            said = section.locator(".missing").filter(has_text=f"layers.{layer}.fc1.input: its history is left out")
            said.wait_for()
            assert section.locator("select").last.evaluate("select => select.selectedIndex") == -1
            assert section.get_by_label("Amax and scale of").count() == 0
        else:
            section.get_by_label(f"Amax and scale of layers.{layer}.fc1.input").wait_for()
    assert sorted(shown) == [False, False, True, True]
    assert report.quiet, report.complaints
    page.close()


@pytest.mark.parametrize("scheme", ["dark"])
def test_a_narrow_dark_screen(report: Opened, browser: Any, scheme: str) -> None:
    narrow = opened(browser, report.file, width=390, scheme=scheme)
    page = narrow.page
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    wide = page.eval_on_selector_all(
        ".plot", "all => all.filter(one => one.getBoundingClientRect().right > 391).length"
    )
    assert wide == 0
    assert narrow.quiet, narrow.complaints
    page.close()
