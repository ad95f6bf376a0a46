"""What a comparison says first: steps without the recorder, what the GPU works and waits, the recorded parts."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction

import pytest

from tests.breakdown.test_without_recorder import known, of, run
from tetrace.breakdown.analysis import Breakdown
from tetrace.breakdown.compare import Comparison, compare
from tetrace.report.diff import diff_page, headline
from tetrace.report.page import written
from tetrace.report.reporter import Options
from tetrace.trace.trace import Trace


def pair(a: dict[str, object], b: dict[str, object]) -> Comparison:
    """A GPU that works 72 of 73 µs, and one that works less and waits for a host that was recorded."""
    return compare(of(run(72, 1, **a)), of(run(62, 20, **b)), ("bf16", "fp8"))


BOTH = pair(known(71, 73), known(63, 82))
PARTS = "GEMMs −0.010, waiting for the host +0.019 ms: net +0.009 ms a step (+12.3%), 0.073 to 0.082 ms."


def test_steps_without_the_recorder_come_first() -> None:
    assert headline(BOTH) == (
        "Without the recorder a step takes 0.071 → 0.063 ms (0.89×, −0.008 ms): medians of the host's time in the 20 steps "
        "after the recorded ones.",
        "The GPU works 0.072 → 0.062 ms a step (−13.9%) and idles 0.001 → 0.020 ms, waiting for the host 0.001 → 0.020 ms.",
        f"Recorded: {PARTS}",
    )


def test_one_run_that_knows() -> None:
    first = headline(pair({}, known(63, 82)))[0]
    assert first == (
        "Without the recorder a step of fp8 takes 0.063 ms (0.082 ms with it); of bf16 that is not known, since no steps ran "
        "on after the recorded ones."
    )


def test_a_caveat_where_neither_knows_and_one_waits() -> None:
    works, parts = headline(pair({}, {}))
    assert works.startswith("The GPU works 0.072 → 0.062 ms a step (−13.9%) and idles 0.001 → 0.020 ms")
    assert works.endswith("; the recorder slows the host: time steps without it before you judge.")
    assert parts == f"Recorded: {PARTS}"


def test_what_both_runs_say_is_said_once() -> None:
    def noticed(works: float, *notices: str) -> Breakdown:
        trace = run(works, 1)
        return of(Trace(dataclasses.replace(trace.metadata, notices=notices), trace.tables))

    page = diff_page([compare(noticed(72, "two copies"), noticed(62, "two copies", "late"), ("bf16", "fp8"))])
    assert page.notices[:2] == ("both: two copies", "fp8: late")


def test_no_caveat_where_no_gpu_waits() -> None:
    works, parts = headline(compare(of(run(72, 1)), of(run(62, 1)), ("bf16", "fp8")))
    assert "recorder" not in works + parts


@pytest.mark.parametrize("format_name", ["terminal", "markdown", "json"])
def test_every_format_begins_with_it(format_name: str) -> None:
    text = written(diff_page([BOTH]), format_name, Options(width=1000))
    places = [text.index(part) for part in ("0.071 → 0.063 ms", "0.072 → 0.062 ms", "GEMMs −0.010")]
    assert places == sorted(places)


def test_the_html_page_begins_with_it() -> None:
    pytest.importorskip("plotly")
    from tetrace.report.html.comparison import document

    assert document([BOTH], "1")["verdict"] == " ".join(headline(BOTH))


def test_json_has_the_numbers_and_they_add_up() -> None:
    (one,) = json.loads(written(diff_page([BOTH]), "json", Options()))["comparisons"]
    plain = one["without_recorder"]
    assert (plain["a_ms"], plain["b_ms"], plain["a_steps"]) == (0.071, 0.063, 20)
    assert plain["ratio"] == pytest.approx(63 / 71)
    assert plain["b_waiting_may_be_the_recorders_ms"] == 0.019
    for side in ("a", "b"):
        whole = one["gpu_works_ms"][side] + one["gpu_idles_ms"][side]
        assert whole == pytest.approx(one["step"][f"{side}_ms_per_step"])
    assert Fraction(one["step"]["difference_ns_exact"]) == 9000
    (one,) = json.loads(written(diff_page([pair({}, {})]), "json", Options()))["comparisons"]
    assert one["without_recorder"]["ratio"] is None
