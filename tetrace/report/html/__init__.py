"""The report as one HTML file that opens anywhere, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tetrace.errors import UsageError
from tetrace.report.html.data import document
from tetrace.report.html.figures import NO_PLOTLY
from tetrace.report.html.page import page
from tetrace.report.reporter import Options

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown


class Html:
    """One page with every chart and table, their data and the program that draws them."""

    def __init__(self, options: Options) -> None:
        if options.by or options.kernel:
            raise UsageError(
                "an HTML report holds every table and searches kernels itself: leave --by and --kernel out"
            )
        if find_spec("plotly") is None:
            raise UsageError(NO_PLOTLY)
        self._options = options

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """The page."""
        data = document(breakdown, self._options)
        return {"": page(data["title"], data)}
