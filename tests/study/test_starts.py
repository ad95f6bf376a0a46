"""Shares of peak are of the start of the machine that rounds were timed in, or there are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.study import made
from tetrace.study import adding_up, resolve
from tetrace.study.adding_up import how_it_adds_up
from tetrace.study.figures import value
from tetrace.study.material import Material
from tetrace.study.measured import measured_section
from tetrace.study.recorded import recorded_section
from tetrace.study.results import Round, read
from tetrace.study.spec import read as read_study
from tetrace.study.starts import moment_of, starts_of

TOML = "[measure]\n[[matrix]]\nname = 'main'\naxes.margin = [0, 1]\n"
STORED = Path(__file__).parent.parent.parent / "profiles"
LATER = {"at": "2026-11-22T10:00:00.000+00:00", "began_ns": 600 * 10**9}


def peaks_of(folder: Path, measured_at: str, second: dict[str, object]) -> tuple[list[float | None], str]:
    """Shares of two configurations, and what is said of the peaks. The first has rounds of one start, from nine on."""
    study = made.study(folder / "study", 'device = "cuda"\n' + TOML)
    fields = {"flops": 4_000_000_000}
    peaks = {"bf16_flops": 10e12, "fp8_flops": 20e12, "measured_at": measured_at}
    of = made.Made(study, peaks=peaks).measured("0", total=[2.0], fields=fields)
    of.measured("1", total=[1.0], fields={**fields, "rounds": read_rounds(second)})
    material = Material(of.write(folder / "results"), study)
    shares = [value(material, "peak_pct", name).estimate for name in ("0", "1")]
    return [one and one.value for one in shares], measured_section(material).said[-1]


def read_rounds(said: dict[str, object]) -> tuple[Round, ...]:
    base = {"round": 0, "at": made.STARTED, "host_ns": 3 * 10**6, "steps": 3, "began_ns": made.ONE_HOUR_NS}
    return (Round(**{**base, **said}),)


MEASURED = "Peaks are what this GPU was measured to reach: 10 TFLOP/s for BF16, 20 TFLOP/s for FP8 (tetrace doctor --calibrate, "
ALL_OWN = "All rounds are of that start; another one reaches other peaks, so shares of two reports do not compare."
APART = "As far as is known {} of another start of the machine, which reaches other peaks: their shares are left out."


@pytest.mark.parametrize(
    ("measured_at", "second", "shares", "when", "said"),
    [
        (made.CALIBRATED, {}, [20.0, 40.0], "2026-11-21 at 09:30 UTC, in the start of the machine at 09:00", ALL_OWN),
        (
            made.CALIBRATED, LATER, [20.0, None], "2026-11-21 at 09:30 UTC, in the start of the machine at 09:00",
            APART.format("rounds of 1 are"),
        ),
        (
            "2026-11-22T09:55:00+00:00", LATER, [None, 40.0], "2026-11-22 at 09:55 UTC, in the start of the machine at 09:50",
            APART.format("rounds of 0 are"),
        ),
        ("2026-11-22T11:35:57+00:00", {}, [None, None], "2026-11-22 at 11:35 UTC", APART.format("all rounds are")),
    ],
    ids=["one start", "a later one", "an earlier one", "after all rounds"],
)  # fmt: skip
def test_shares_are_of_the_peaks_of_their_start(tmp_path, measured_at, second, shares, when, said):
    assert peaks_of(tmp_path, measured_at, second) == (shares, f"{MEASURED}{when}). {said}")


def test_starts_by_the_clock_of_processes():
    """The time of day may be set by a second between two rounds."""
    rounds = read_rounds({}) + read_rounds(
        {"at": "2026-11-21T10:00:31+00:00", "began_ns": made.ONE_HOUR_NS + 30 * 10**9}
    )
    assert [f"{one.began:%H:%M:%S} {one.last:%H:%M:%S}" for one in starts_of(rounds)] == ["09:00:00 10:00:31"]
    assert starts_of(read_rounds({"began_ns": 0})) == []


@pytest.mark.parametrize("name", ["attention", "fusion", "gated", "hybrid", "stability"])
def test_stored_peaks_are_of_the_start_that_was_timed(name):
    """A run that only added recordings had replaced those of attention."""
    results = read(STORED / name / "results/h200")
    rounds = [each for one in results.configurations for each in one.rounds]
    starts = starts_of(rounds)
    assert len(starts) == 1
    assert starts[0].had(moment_of(results.peaks["measured_at"]))


@pytest.mark.parametrize(
    ("ended", "later", "elsewhere", "hours"),
    [
        ("2026-11-21T08:40:00+00:00", {}, True, 0),  # before the start that rounds were timed in
        ("2026-11-21T10:20:00+00:00", {}, False, 0),
        ("2026-11-21T15:20:00+00:00", {}, False, 5),
        ("2026-11-22T09:59:00+00:00", {}, True, 0),  # in a later start, which others were timed in
        # The host of the others was up for a day when they were timed.
        ("2026-11-21T09:59:30+00:00", {"began_ns": 24 * made.ONE_HOUR_NS}, False, 0),
        (None, {}, False, 0),  # not known
    ],
)
def test_a_recording_of_another_start_is_told(
    tmp_path: Path, ended: str | None, later: dict[str, object], elsewhere: bool, hours: int
) -> None:
    study = made.study(tmp_path / "study", 'device = "cuda"\n' + TOML)
    recording = tmp_path / "recorded.tetrace"
    shutil.copytree(made.RECORDINGS / "bf16.tetrace", recording)
    metadata = json.loads((recording / "metadata.json").read_text(encoding="utf-8"))
    moment = moment_of(ended)
    metadata["facts"]["ended"] = {"ended_ns": int(moment.timestamp() * 1e9)} if moment else {}
    (recording / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    of = made.Made(study).measured("0", total=[2.0], recording=recording)
    of.measured("1", total=[1.0], fields={"rounds": read_rounds({**LATER, **later})})
    material = Material(of.write(tmp_path / "results"), study)
    assert material.recorded_elsewhere("0") == (moment if elsewhere else None)
    assert material.recorded_elsewhere("1") is None
    assert ("another start (2026-11-2" in str(recorded_section(material).grids)) is elsewhere
    assert material.recorded_hours_later("0") == hours


@pytest.mark.parametrize(
    ("elsewhere", "later", "said"),
    [
        ((), (), []),
        (("a",), ("b",), [
            "a was recorded in another start of the machine than it was timed in.", "b was recorded 3 h after it was timed.",
        ]),
        ((), ("a", "b"), ["Both were recorded 3 h after they were timed."]),
        (("a", "b"), (), ["Both were recorded in another start of the machine than they were timed in."]),
    ],
)  # fmt: skip
def test_what_an_explanation_says_of_it(elsewhere: tuple[str, ...], later: tuple[str, ...], said: list[str]) -> None:
    material = SimpleNamespace(
        recorded_elsewhere=lambda name: moment_of(LATER["at"]) if name in elsewhere else None,
        recorded_hours_later=lambda name: 3 if name in later else 0,
    )
    assert (
        list(adding_up._elsewhere_words(cast("Any", material), cast("Any", SimpleNamespace(names=("a", "b"))))) == said
    )


def test_some_recordings_of_a_study_that_tetrace_brings_were_made_later() -> None:
    place = resolve.find("gated")
    material = Material(STORED / "gated" / "results" / "h200", read_study(place.folder))
    hours = {one.name: found for one in material.recorded() if (found := material.recorded_hours_later(one.name))}
    assert {name: many for name, many in hours.items() if name.startswith(("batch512:32", "length"))} == {
        "batch512:32-none": 26, "batch512:32-hybrid": 26, "length:1024-none": 26, "length:1024-hybrid": 26,
    }  # fmt: skip
    explained = material.explanation("batch512:32-hybrid", "batch512:32-none")
    assert not isinstance(explained, str)
    assert "Both were recorded 26 h after they were timed." in how_it_adds_up(material, explained)
