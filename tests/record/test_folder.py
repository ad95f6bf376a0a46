"""Where recordings go: names, what is in the way, and several recorders at once."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tetrace.errors import UsageError
from tetrace.record import environment, folder
from tetrace.record.folder import Place


def take(at: Place, force: bool = False, keep_report: bool = False, **environ: str) -> Place:
    return folder.take(at, force=force, keep_report=keep_report, environ=environ)


@pytest.mark.parametrize(
    ("output", "name"), [("run1", "run1"), ("run1.tetrace", "run1"), ("v1.5", "v1.5"), (None, "train")]
)
def test_names(tmp_path: Path, output: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = folder.place(Path(output) if output else None, "train")
    assert at.recording == tmp_path / f"{name}.tetrace"
    assert at.working == tmp_path / f"{name}.tetrace.recording"
    assert at.report == tmp_path / f"{name}.nsys-rep"


def test_a_name_that_is_none() -> None:
    with pytest.raises(UsageError, match="names no recording"):
        folder.place(Path(), "train")


def test_a_recording_is_not_overwritten_unasked(tmp_path: Path) -> None:
    at = Place(tmp_path / "run.tetrace")
    at.recording.mkdir()
    (at.recording / "metadata.json").write_text("{}")
    with pytest.raises(UsageError, match="exists; choose another name with -o or pass --force"):
        take(at)
    assert take(at, force=True) == at
    assert at.working.is_dir()


def test_what_is_no_recording_is_never_overwritten(tmp_path: Path) -> None:
    at = Place(tmp_path / "run.tetrace")
    at.recording.mkdir()
    with pytest.raises(UsageError, match=r"is not a \.tetrace folder"):
        take(at, force=True)


def test_a_report_is_not_overwritten_unasked(tmp_path: Path) -> None:
    at = Place(tmp_path / "run.tetrace")
    at.report.write_text("")
    with pytest.raises(UsageError, match=r"run\.nsys-rep: exists"):
        take(at, keep_report=True)
    assert take(at) == at


def test_nodes_do_not_collide(tmp_path: Path) -> None:
    at = Place(tmp_path / "run.tetrace")
    assert take(at) == at
    assert take(at, NODE_RANK="1").recording.name == "run-node1.tetrace"
    assert take(at).recording.name == f"run-node-{environment.host()}.tetrace"
    with pytest.raises(UsageError, match="another tetrace record is writing it"):
        take(at)
    (at.working / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert take(at, NODE_RANK="2").recording.name == "run-node2.tetrace"


def test_what_a_killed_recorder_left_is_kept(tmp_path: Path) -> None:
    at = Place(tmp_path / "run.tetrace")
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    take(at)
    (at.working / "lock").write_text(json.dumps({"host": environment.host(), "pid": gone}))
    (at.working / "process-7").mkdir()
    with pytest.raises(UsageError, match="left from a recording that did not end; read it with tetrace report"):
        take(at)
    assert take(at, force=True) == at
    assert not (at.working / "process-7").exists()
    # Nothing was recorded in what is there now: it is in nobody's way.
    folder.let_go(at.working)
    assert take(at) == at


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder; choose one with -o"):
        take(Place(tmp_path / "file" / "run.tetrace"))


def test_a_mistyped_folder_is_not_made(tmp_path: Path) -> None:
    at = Place(tmp_path / "nope" / "run.tetrace")
    said = f"{at.recording}: its folder {tmp_path / 'nope'} does not exist; make it, or choose another with -o"
    with pytest.raises(UsageError, match=re.escape(said)):
        take(at)
    assert not list(tmp_path.iterdir())
