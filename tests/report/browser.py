"""A Chromium for the tests of pages: that of $TETRACE_BROWSER, the system's, or Playwright's own."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READY_MS = 90_000


def installed() -> str | None:
    """The browser to start; '' is Playwright's own, None where there is none at all."""
    found = os.environ.get("TETRACE_BROWSER") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found:
        return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return "" if Path(playwright.chromium.executable_path).exists() else None


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser. Skips the test where none is found."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[test]'")
    from playwright.sync_api import sync_playwright

    path = installed()
    if path is None:
        pytest.skip("no Chromium was found: apt-get install chromium, or python -m playwright install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or None, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page that was opened from its file, with everything it complained about or asked for."""

    page: Any
    file: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        """Whether nothing was complained about, and nothing asked for but the file itself."""
        return not self.complaints and self.requests == [self.file.as_uri()]


def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Opened:
    """`file` in a window of its own, once its charts can be drawn."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    found = Opened(page, file)
    page.on("console", lambda said: found.complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (found.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=READY_MS, state="attached")
    return found


def draw_all(page: Any) -> None:
    """Scroll to every chart until it is drawn: one that is out of sight again before the browser looked stays undrawn."""
    for one in page.query_selector_all(".plot"):
        one.scroll_into_view_if_needed()
        until = time.monotonic() + READY_MS / 1000
        while one.query_selector("svg.main-svg") is None:
            assert time.monotonic() < until, "a chart in sight was not drawn"
            page.wait_for_timeout(10)
        # plotly draws a kind of chart that it does not have as lines.
        assert one.evaluate("plot => plot._fullData.every((trace, place) => trace.type === plot.data[place].type)")


def wait_until(page: Any, holds: str) -> None:
    """Until an expression holds. Playwright's own way evaluates text in the page, which the page's policy forbids."""
    until = time.monotonic() + READY_MS / 1000
    while not page.evaluate(holds):
        assert time.monotonic() < until, f"never held: {holds}"
        page.wait_for_timeout(50)
