"""What an HTML report of a large recording costs: to make, to keep, and to open.

    python benchmarks/html_report.py RUN [--browser PATH]

RUN is anything that `tetrace report` reads, such as what `inflate.py` made. The browser is Chromium, through
Playwright: `--browser` names one, else the system's is taken, else Playwright's own. Each of `--runs` openings is a new
browser; the median is printed, with the target that it is to be below.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import tetrace
from tetrace.report.html import Html
from tetrace.report.reporter import Options

NAMES = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES, MOST_MS = 6_000_000, 2_000


def opening(browser_path: str | None, file: Path) -> tuple[float, float, float]:
    """Milliseconds from the start of the navigation until the verdict stands, charts can be drawn, and the first is."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(file.as_uri(), wait_until="commit")
        page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
        written, ready = (
            float(page.evaluate(f"document.documentElement.dataset.{name}")) for name in ("written", "ready")
        )
        page.locator("#steps .plot").scroll_into_view_if_needed()
        page.wait_for_selector("#steps svg.main-svg", state="attached")
        drawn = float(page.evaluate("performance.now()"))
        browser.close()
    return written, ready, drawn


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--browser", help="path of a Chromium")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    browser = options.browser or next((path for name in NAMES if (path := shutil.which(name))), None)
    laps = [time.perf_counter()]
    analysis = tetrace.analyze(tetrace.load(options.run))
    laps.append(time.perf_counter())
    text = Html(Options(version=tetrace.__version__)).documents(analysis)[""]
    laps.append(time.perf_counter())
    assert isinstance(text, str)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(text, encoding="utf-8")
        size = file.stat().st_size
        opened = [opening(browser, file) for _ in range(options.runs)]
    written, ready, drawn = (statistics.median(column) for column in zip(*opened, strict=True))
    sys.stdout.write(
        f"{options.run.name}: {analysis.totals.activities:,} activities in the counted steps\n"
        f"load and analyze {laps[1] - laps[0]:.1f} s, make the page {laps[2] - laps[1]:.1f} s\n"
        f"size {size / 1e6:.2f} MB (target {MOST_BYTES / 1e6:.0f})\n"
        f"open: verdict after {written:.0f} ms, charts ready {ready:.0f} ms (target {MOST_MS}), "
        f"scrolled to and drawn {drawn:.0f} ms\n"
    )
    sys.exit(size > MOST_BYTES or ready > MOST_MS)


if __name__ == "__main__":
    main()
