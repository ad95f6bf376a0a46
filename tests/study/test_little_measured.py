"""Reports of studies of which something is missing: recordings, rounds, or everything."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.study.made import Made, study
from tests.study.stack import CLOCKS, TOML, stack, table
from tests.traces import Recording
from tetrace.errors import InputError
from tetrace.study import results
from tetrace.study.material import Material
from tetrace.study.report import first_screen, write
from tetrace.trace import store


def test_without_recordings_it_says_not_recorded(tmp_path):
    folder, of = stack(tmp_path, recordings=False)
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "Not explained: delayed against none, graphs against none: not recorded." in text
    rows = table(text, "Recordings: an average steady step")
    assert rows == [
        ["configuration", "timed alone ms", "note"],
        ["none", "10.000", "not recorded"],
        ["delayed", "17.000", "not recorded"],
        ["graphs", "3.000", "not recorded"],
    ]
    ratios = table(text, "A note: how many times faster, noted and here")
    assert ratios[2][-1] == "none: not recorded"


def test_a_recording_that_is_gone_or_broken_says_so(tmp_path):
    folder, of = stack(tmp_path)
    (folder / "none.tetrace").unlink()
    (folder / "graphs.tetrace").unlink()
    (folder / "graphs.tetrace").mkdir()
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "not recorded: none.tetrace is not in this folder" in text
    assert re.search(r"`graphs`.*not recorded: .*graphs.tetrace", text)


def test_a_recording_is_a_name_in_this_folder(tmp_path):
    """Results that somebody else made cannot name a file elsewhere."""
    folder, of = stack(tmp_path)
    said = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    said["configurations"][0]["recording"] = "../../../../etc/none.tetrace"
    (folder / "study.json").write_text(json.dumps(said), encoding="utf-8")
    assert Material(folder, of).breakdown("none") is not None


def test_what_to_know_before_any_number(tmp_path):
    of = study(tmp_path, TOML)
    slowed = {**CLOCKS, "throttled": ("power cap",)}
    made = Made(of, ended=None, quick=True, options_changed={"layers": 2})
    fields = {"options": {"layers": 2}}
    made.measured("none", total=[1.0, 1.1, 1.2], rounds=slowed, fields=fields).state(
        "delayed", results.WAITING, key="k"
    )
    folder = made.write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("> **Note:**")] == [
        "> **Note:** not ended: 1 of 2 configurations is not done yet; the same command goes on",
        "> **Note:** a quick run: fewer rounds, so wider intervals, and not every configuration",
        "> **Note:** with other options than the study's: layers = 2",
        "> **Note:** in 3 of 3 rounds something slowed the GPU: power cap",
    ]
    assert "Student's t over 3 rounds (95%)" in text
    assert table(text, "While rounds ran")[1] == ["none", "3", "1,980", "512", "51", "3", "power cap"]


def test_a_study_that_was_stopped_says_what_is_left(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of, ended=None).measured("none", total=[1.0], fields={"recording": "none.tetrace"})
    made.measured("delayed", total=[1.0])
    folder = made.state("block", results.TIMED_OUT).write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "> **Note:** not ended: 1 of 2 recordings is not made yet; the same command goes on" in text


def test_a_study_that_was_stopped_once_all_was_done_lacks_nothing(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of, ended=None).measured("none", total=[1.0], fields={"recording": "none.tetrace"})
    folder = made.measured("delayed", total=[1.0], fields={"recording": "delayed.tetrace"}).write(tmp_path / "results")
    write(folder, of)
    assert "not ended:" not in (folder / "REPORT.md").read_text(encoding="utf-8")


def test_nothing_measured_is_a_report_too(tmp_path):
    of = study(tmp_path, TOML)
    folder = Made(of, ended=None).state("none", results.WAITING, key="k").write(tmp_path / "results")
    write(folder, of)
    assert "**Nothing was measured; 5 claims cannot be told; 1 of 1 configurations was not measured" in (
        folder / "REPORT.md"
    ).read_text(encoding="utf-8")
    assert "Nothing was measured" in first_screen(folder, of, 80)


def test_no_results_is_an_error_with_the_way_out(tmp_path):
    of = study(tmp_path, TOML)
    with pytest.raises(InputError, match=r"study\.json: cannot be read"):
        write(tmp_path, of)
    with pytest.raises(InputError, match=r"study\.json: cannot be read"):
        first_screen(tmp_path, of, 80)


def test_a_recording_without_a_gpu_shows_no_zero(tmp_path):
    cpu = Recording().range("step_0", 0, 9).range("step_1", 10, 19).trace()
    without = {name: table for name, table in cpu.tables.items() if name != "activities"}
    store.write(replace(cpu, tables=without), tmp_path / "none.tetrace")
    of = study(tmp_path / "study", TOML)
    folder = Made(of).measured("none", total=[1.0] * 7, recording=tmp_path / "none.tetrace").write(tmp_path / "results")
    write(folder, of)
    row = table((folder / "REPORT.md").read_text(encoding="utf-8"), "Recordings: an average steady step")[1]
    assert row == ["none", "1.000", "no GPU activity was captured"]


def test_what_nobody_asked_for_is_left_out(tmp_path):
    """A run with --only: the others have no key, and nothing is missing."""
    of = study(tmp_path, TOML)
    made = Made(of).measured("none", total=[1.0] * 7)
    for name in ("delayed", "graphs", "block"):
        made.state(name, results.WAITING)
    folder = made.write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "> **Note:** 3 other configurations of the study were not asked for\n" in text
    assert "**Fastest: none, 1.000 ms a step; 5 claims cannot be told.**" in text
    assert [row[0] for row in table(text, "Configurations: ms a step")] == ["configuration", "none"]
    assert table(text, "Claims")[1][-1] == "delayed was not asked for in this run; the step waits for the host"
