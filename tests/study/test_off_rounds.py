"""Recordings that are off their rounds are made once more; the closer one is kept. The recordings are real, of an H200."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tetrace.study import off_rounds, runner, spec
from tetrace.study.material import Material

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
STUDY = spec.read(PROFILES / "attention")
STORED = PROFILES / "attention" / "results" / "h200"
# The GPU was slowed while the first was recorded, so that it was made anew; the second is the same configuration under
# another name.
SLOWED, CLOSER = "te-fused", "te-auto"
KEPT = {SLOWED: Path(__file__).resolve().parents[1] / "data" / "drift" / "te-fused-slowed.tetrace"}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run of which `SLOWED` was recorded. `said`: what was told; `changed`: what the ledger was told."""
    for name in ("study.json", "steps.csv"):
        shutil.copy(STORED / name, tmp_path)
    record(tmp_path, SLOWED)
    said, changed = list[str](), list[dict[str, Any]]()
    ledger = SimpleNamespace(
        folder=tmp_path, change=lambda name, **fields: changed.append({"name": name, **fields}), save=lambda: None
    )
    watcher = SimpleNamespace(say=said.append)
    return SimpleNamespace(ledger=ledger, study=STUDY, watcher=watcher, said=said, changed=changed)


def record(folder: Path, name: str) -> None:
    """The recording of `SLOWED` becomes that of `name`."""
    stored = STORED / f"{name.replace(':', '.')}.tetrace"
    shutil.copytree(KEPT.get(name, stored), folder / f"{SLOWED}.tetrace")


def planned(name: str) -> Any:
    return next(one for one in STUDY.configurations if one.name == name)


def steps_ms(run: Any) -> float:
    totals = Material(run.ledger.folder, STUDY).breakdown(SLOWED).totals
    return totals.wall_ns / totals.steps / 1e6


def test_how_far_recorded_steps_are_off(run: Any) -> None:
    stored = Material(STORED, STUDY)
    slowed = (Material(run.ledger.folder, STUDY), SLOWED, 1.108)
    for material, name, ratio in (slowed, (stored, CLOSER, 1.046), (stored, "te_fp8-flash", 0.957)):
        assert 1 + off_rounds.off_by(material, name) == pytest.approx(ratio, abs=0.001)


def test_a_step_that_waits_for_the_host_tells_nothing() -> None:
    fusion = spec.read(PROFILES / "fusion")
    assert off_rounds.off_by(Material(PROFILES / "fusion" / "results" / "h200", fusion), "fused-none") is None


def test_what_is_near_is_left_alone(run: Any) -> None:
    with off_rounds.to_record_again(run, [planned("te_fp8-flash"), planned("vanilla-by_hand")]) as again:
        assert again == [], "these were not recorded here"
    assert run.said == []


def test_the_closer_one_is_kept(run: Any) -> None:
    with off_rounds.to_record_again(run, [planned(SLOWED)]) as again:
        assert again == [planned(SLOWED)]
        assert not (run.ledger.folder / f"{SLOWED}.tetrace").exists()
        record(run.ledger.folder, CLOSER)
    assert run.said == ["te-fused: its recorded steps take 1.108 times those of its rounds"]
    assert steps_ms(run) == pytest.approx(17.67, abs=0.02)
    assert run.changed == []
    assert [path.name for path in run.ledger.folder.glob("*.tetrace*")] == [f"{SLOWED}.tetrace"]


@pytest.mark.parametrize("other", ["", "length:8192-unfused"])
def test_it_is_put_back_where_no_closer_one_was_made(run: Any, other: str) -> None:
    """None was made, as after a failure or Ctrl-C; or one that is farther off."""
    before = steps_ms(run)
    with off_rounds.to_record_again(run, [planned(SLOWED)]):
        if other:
            record(run.ledger.folder, other)
    assert steps_ms(run) == before
    assert run.changed == [{"name": SLOWED, "recording": f"{SLOWED}.tetrace", "recording_error": None}]
    assert [path.name for path in run.ledger.folder.glob("*.tetrace*")] == [f"{SLOWED}.tetrace"]


def test_it_is_put_back_after_an_interrupt(run: Any) -> None:
    before = steps_ms(run)
    with pytest.raises(KeyboardInterrupt), off_rounds.to_record_again(run, [planned(SLOWED)]):
        raise KeyboardInterrupt
    assert steps_ms(run) == before


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ("", SLOWED),
        ("length:8192-unfused", SLOWED),  # farther off
        (CLOSER, CLOSER),
        ("torn", SLOWED),
    ],
)
def test_what_a_killed_run_put_aside_is_taken_back_by_the_next(run: Any, other: str, kept: str) -> None:
    """Killed before another recording was there, before both were compared, or while the other was removed."""
    folder = run.ledger.folder
    before = steps_ms(run)
    (folder / f"{SLOWED}.tetrace").rename(folder / f"{SLOWED}.tetrace.off")
    if other:
        record(folder, CLOSER if other == "torn" else other)
    if other == "torn":
        (folder / f"{SLOWED}.tetrace" / "metadata.json").unlink()
    off_rounds.take_back(run)
    assert steps_ms(run) == (before if kept == SLOWED else pytest.approx(17.67, abs=0.02))
    assert [path.name for path in folder.glob("*.tetrace*")] == [f"{SLOWED}.tetrace"]
    is_back = kept == SLOWED
    assert run.changed == [{"name": SLOWED, "recording": f"{SLOWED}.tetrace", "recording_error": None}] * is_back
    assert run.said == ["te-fused: a run that was killed had put its recording aside; it is back"] * is_back


def test_nothing_is_removed_where_neither_is_whole(run: Any) -> None:
    folder = run.ledger.folder
    (folder / f"{SLOWED}.tetrace").rename(folder / f"{SLOWED}.tetrace.off")
    (folder / f"{SLOWED}.tetrace.off" / "metadata.json").unlink()
    off_rounds.take_back(run)
    assert [path.name for path in folder.glob("*.tetrace*")] == [f"{SLOWED}.tetrace.off"]
    assert run.said == []


def test_a_run_begins_with_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it decides what is still to be recorded."""
    done = list[str]()
    monkeypatch.setattr(off_rounds, "take_back", lambda _run: done.append("taken back"))
    run._to_measure = lambda: done.append("decided") or []
    run._chosen, run._wants, run.options = [], None, SimpleNamespace(recordings=True)
    run.ledger.results = "results"
    assert runner.Run.execute(run) == "results"
    assert done == ["taken back", "decided"]
