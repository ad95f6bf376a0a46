"""`tetrace record` into a folder that cannot be written, from the beginning or from some moment on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.record.scripts import ours, python, run
from tests.permissions import bind, needs_permissions, skip_unless_bound
from tetrace import load

pytestmark = needs_permissions
CLOSE = "[os.chmod(folder, 0o555) for folder, _, _ in [*os.walk('to')]]"


@pytest.fixture(autouse=True)
def to(tmp_path: Path) -> Path:
    """Where the recording is to go."""
    skip_unless_bound()
    (tmp_path / "to").mkdir()
    return tmp_path / "to"


def opened(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


def test_it_is_told_before_anything_runs(to: Path) -> None:
    to.chmod(0o555)
    done = run("-o", "to/run", *python("print('it ran')"), preexec_fn=bind)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tetrace: {to}: cannot be written (Permission denied); name a folder with -o\n"


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    ("close", "reason"),
    [(CLOSE, "run.tetrace.recording: cannot be written (Permission denied)"), ("os.chmod('to', 0o555)", "")],
)
def test_what_was_recorded_before_is_kept(to: Path, close: str, reason: str) -> None:
    """The script goes on as if nothing had happened; its last steps may be in the ring, which is open already."""
    done = run("--collector", "host", "-o", "to/run", "trains.py", close, preexec_fn=bind)
    assert (done.returncode, done.stdout) == (2, "trained\n")
    working = to / "run.tetrace.recording"
    last = ours(done.stderr)[-1]
    assert "Permission denied" in last
    assert reason in last
    assert f"what was recorded is kept: tetrace report {working} reads it again" in last
    assert "defect" not in done.stderr
    opened(to)
    trace = load(working)
    assert trace.rows("ranges") > 0
    assert json.loads((working / "run.json").read_text())["collector"] == "host"
