"""Every number of a page has a meaning, which is a whole sentence in the words of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import recorded
from tests.report.test_html import blocks, data_of
from tetrace.breakdown.compare import compare_all
from tetrace.report.column_meanings import column_meaning
from tetrace.report.definitions import DEFINITIONS
from tetrace.report.html.comparison import document as comparison_document
from tetrace.report.scale import Scale
from tetrace.report.views import VIEWS, View

LAYERS = "../../profiles/layer_stack/results/nvidia-h200/fp8-delayed.tetrace"
# Words that a definition shares with the documentation, one after the other.
_SHARED = 4


def grids_in(data: Any) -> Iterator[dict[str, Any]]:
    """Every table of a page's data."""
    if isinstance(data, dict):
        if "columns" in data:
            yield data
        data = list(data.values())
    if isinstance(data, list):
        for one in data:
            yield from grids_in(one)


def is_sentence(words: str) -> bool:
    """A whole sentence that quotes nothing of the schema."""
    return bool(re.fullmatch(r"[A-Z].{15,}\.", words)) and not re.search(r"-1|_ns|[{}]", words)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definitions_are_sentences_in_the_words_of_the_documentation(name: str) -> None:
    """Each shares a run of words with it: who changes one of them meets the other."""
    words = DEFINITIONS[name]
    assert all(is_sentence(one) for one in re.split(r"(?<=\.) (?=[A-Z])", words)), words
    text = (Path(__file__).parent.parent.parent / "docs/how-it-works.md").read_text(encoding="utf-8")
    plain, said = (re.sub(r"[*`.,;:()|]", "", one).lower().split() for one in (text, words))
    documented = " ".join(plain)
    runs = [" ".join(said[at : at + _SHARED]) for at in range(len(said) - _SHARED + 1)]
    assert any(run in documented for run in runs), words


@pytest.mark.parametrize("name", ["te4-fp8.sqlite", "stability-e4m3.tetrace", "kineto_qwen_h100.json.gz"])
def test_every_term_has_its_definition(name: str) -> None:
    data = data_of(recorded(name))
    rows = [row for block in blocks(data, "launches", "facts") for row in block["rows"]]
    terms = {one["term"] for one in [*data["figures"], *data["wall"]["parts"], *rows]}
    assert terms <= set(DEFINITIONS)
    meant = {row["label"]: row["term"] for row in rows}
    assert meant["Latency on an idle stream"] == "Latency on an idle stream"


@pytest.mark.parametrize("name", ["ddp-straggler.sqlite", "stability-e4m3.tetrace", LAYERS])
def test_every_column_has_a_meaning(name: str) -> None:
    grids = list(grids_in(data_of(recorded(name))))
    assert len(grids) > 9
    for grid in grids:
        for column in grid["columns"]:
            assert is_sentence(column["term"]), (grid["title"], column["head"], column["term"])


def test_every_column_of_a_comparison_has_a_meaning() -> None:
    a, b = (recorded(name) for name in ("te4-bf16.sqlite", "te4-fp8.sqlite"))
    for grid in grids_in(comparison_document(compare_all([a, b]), "1")):
        for column in grid["columns"]:
            assert is_sentence(column["term"]), (grid["title"], column["head"], column["term"])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_column_of_a_view_has_a_meaning_of_its_own_scale(view: View) -> None:
    breakdown = recorded("te4-fp8.sqlite")
    for scale in (Scale(3, " per step"), Scale(3, " per lane"), Scale(1, "")):
        for field in view.fields(breakdown, scale):
            said = column_meaning(view.name, field.column.head, scale)
            assert is_sentence(said), (field.column.head, said)
            assert scale.each == " per step" or "average counted step" not in said, (field.column.head, said)
