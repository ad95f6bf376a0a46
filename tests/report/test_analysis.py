"""What a notebook shows of an analysis, and the example notebook itself."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tetrace
from tests.report.runs import breakdown_of, recorded, three_steps
from tests.report.test_html import HOSTILE, hostile
from tetrace.errors import UsageError
from tetrace.report.analysis import Analysis

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "docs" / "example.ipynb"


def tags(text: str) -> set[str]:
    """Names of all elements."""
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _attrs: found.add(tag)  # type: ignore[method-assign]
    parser.feed(text)
    return found


def test_it_shows_verdict_time_and_findings() -> None:
    analysis = Analysis.of(recorded("te4-fp8.sqlite"))
    text = analysis._repr_html_()
    assert analysis.verdict in text
    assert "host-bound" in text
    assert analysis.findings[0].title in text
    assert len(text) < 12_000
    assert tags(text) == {"div", "p", "b", "table", "tr", "th", "td", "ol", "li"}


def test_what_has_no_cost_in_time_has_its_word() -> None:
    text = Analysis.of(recorded("stability-e4m3.tetrace"))._repr_html_()
    assert "<b>clipped</b>: FP8: Saturation" in text
    assert "0 ns" not in text


def test_hostile_names_are_words() -> None:
    text = Analysis.of(breakdown_of(hostile()))._repr_html_()
    assert tags(text) <= {"div", "p", "b", "table", "tr", "th", "td", "ol", "li"}
    assert "\x1b" not in text
    assert HOSTILE[0] not in text
    assert len(text) < 20_000


def test_figures_are_plotly_s() -> None:
    from plotly.graph_objects import Figure

    figures = Analysis.of(recorded("ddp-straggler.sqlite")).figures
    names = ["steps", "icicle", "timeline", "lanes", "quantization", "host_ranges", "gemms"]
    for name in names:
        figure = getattr(figures, name)()
        assert isinstance(figure, Figure), name
        assert figure.data, name
    assert "icicle" in repr(figures)


def test_what_cannot_be_drawn_is_said() -> None:
    figures = Analysis.of(breakdown_of(three_steps())).figures
    with pytest.raises(UsageError, match="nothing to draw: there is one process"):
        figures.lanes()
    with pytest.raises(UsageError, match="nothing to draw: no FP8 statistics"):
        figures.fp8_health()
    with pytest.raises(UsageError, match="measure x: choose one of"):
        figures.fp8_health("x")
    with pytest.raises(UsageError, match=r"layers\.0: no history; none was recorded"):
        figures.tensor_history("layers.0")
    with pytest.raises(UsageError, match="lane 3: there are lanes 0 to 0"):
        figures.steps(3)


def test_without_plotly_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UsageError, match="pip install 'plotly"):
        Analysis.of(breakdown_of(three_steps())).figures.steps()


def test_analyze_returns_it() -> None:
    analysis = tetrace.analyze(tetrace.load(ROOT / "tests/data/te4-bf16.sqlite"))
    assert isinstance(analysis, tetrace.Analysis)
    assert isinstance(analysis, tetrace.Breakdown)
    assert repr(analysis).startswith("<Breakdown of te4-bf16.sqlite: ")


def test_the_example_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, as a kernel would: the last expression of each is what it shows."""
    import ast

    monkeypatch.chdir(NOTEBOOK.parent)
    shown: list[Any] = []
    names: dict[str, Any] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 4
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    kinds = [type(one).__name__ for one in shown]
    assert "Analysis" in kinds
    assert "DataFrame" in kinds
    assert kinds.count("Figure") >= 3
