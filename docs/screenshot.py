"""Takes docs/report.png, the picture of an HTML report in the README, with the Chromium that the tests use.

python docs/screenshot.py
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import tetrace
from tetrace.report.html import Html
from tetrace.report.reporter import Options

_FOLDER = Path(__file__).resolve().parent
_RUN = _FOLDER.parent / "profiles/layer_stack/results/nvidia-h200/fp8-delayed.tetrace"
_WIDTH, _HEIGHT = 1280, 1760


def main() -> None:
    """Writes the picture."""
    from playwright.sync_api import sync_playwright

    text = Html(Options(version=tetrace.__version__)).documents(tetrace.analyze(tetrace.load(_RUN)))[""]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(str(text), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        page.goto(file.as_uri())
        page.wait_for_selector("#steps svg.main-svg", state="attached")
        page.wait_for_timeout(500)
        page.screenshot(path=_FOLDER / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
