"""`tetrace export` as a user meets it: files, what is drawn, one-line errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

from tests.cli.test_report import DATA, FP8, failure, run
from tetrace.cli import export as command
from tetrace.cli.main import main
from tetrace.errors import UsageError


def begins(content: bytes) -> int:
    """How many slices a Perfetto file begins."""
    trace = proto.Trace()
    trace.ParseFromString(content)
    return sum(packet.track_event.type == proto.TrackEvent.TYPE_SLICE_BEGIN for packet in trace.packet)


def slices(document: bytes) -> int:
    """How many slices a JSON file holds."""
    return sum(event["ph"] == "X" for event in json.loads(document)["traceEvents"])


def test_both_files_have_the_slices_that_it_says(tmp_path: Path) -> None:
    perfetto, chrome = tmp_path / "out.pftrace", tmp_path / "out.json"
    done = run("export", FP8, "--perfetto", perfetto, "--chrome", chrome)
    assert (done.returncode, done.stdout) == (0, "")
    count = begins(perfetto.read_bytes())
    assert slices(chrome.read_bytes()) == count
    assert done.stderr == f"tetrace: wrote {perfetto} ({count:,} slices)\ntetrace: wrote {chrome} ({count:,} slices)\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out.json", "out.pftrace"]
    for option in ("--perfetto", "--chrome"):
        code, line = failure("export", FP8, option, tmp_path / "nope" / "out")
        assert (code, "nope does not exist" in line) == (2, True)
    assert not (tmp_path / "nope").exists()


def test_names_that_end_in_gz_are_compressed_and_the_same_each_time(tmp_path: Path) -> None:
    plain, first, again = (tmp_path / name for name in ("a.pftrace", "a.pftrace.gz", "b.pftrace.gz"))
    for path in (plain, first, again):
        assert run("export", FP8, "--perfetto", path).returncode == 0
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()
    assert first.read_bytes() == again.read_bytes()
    assert run("export", FP8, "--chrome", tmp_path / "a.json.gz").returncode == 0
    assert slices(gzip.decompress((tmp_path / "a.json.gz").read_bytes())) == begins(plain.read_bytes())


def test_steps_are_chosen(tmp_path: Path) -> None:
    counts = {}
    for name, options in {
        "steady": (),
        "one": ("--steps", "7"),
        "three": ("--steps", "7:10"),
        "all": ("--all",),
    }.items():
        path = tmp_path / f"{name}.pftrace"
        assert run("export", FP8, "--perfetto", path, *options).returncode == 0
        counts[name] = begins(path.read_bytes())
    assert 0 < counts["one"] < counts["three"] < counts["steady"] < counts["all"]


def test_a_file_is_overwritten_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.pftrace"
    path.write_text("precious")
    code, line = failure("export", FP8, "--perfetto", path)
    assert (code, path.read_text()) == (2, "precious")
    assert "exists; choose another name or pass --force" in line
    assert run("export", FP8, "--perfetto", path, "--force").returncode == 0
    assert begins(path.read_bytes()) > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export"], "Missing argument 'RUN'."),
        (["export", FP8], "name what to write: --perfetto OUT.pftrace or --chrome OUT.json"),
        (["export", FP8, "--perfetto", "x", "--all", "--steps", "7"], "leave --steps 7 out, or --all"),
        (["export", FP8, "--perfetto", "x", "--chrome", "x"], "named by --perfetto and --chrome"),
        (["export", FP8, "--perfetto", FP8, "--force"], "which is never written to"),
        (["export", FP8, "--perfetto", DATA / "stability-bf16.tetrace", "--force"], "is a folder"),
        (["export", FP8, "--perfetto", "x", "--steps", "100:"], "--steps 100: leaves no step"),
        (["export", FP8, "--perfetto", "x", "--steps", "y"], "--steps y: give steady"),
        (["export", FP8, "--perfetto", "x", "--device", "7"], "--device 7: no activity ran on it"),
        (["export", FP8, "--perfetto", "x", "--process", "7"], "--process 7: no such process"),
        (["export", "missing.sqlite", "--perfetto", "x"], "missing.sqlite: no such file"),
        (["export", FP8, "--perfetto", FP8 / "below"], "is no folder; choose one"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    arguments: list[str | Path], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = failure(*arguments)
    assert (code, says in line) == (2, True), line
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        yield 0, b"begun"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tetrace.report.perfetto.chunks", broken)
    with pytest.raises(SystemExit) as left:
        main(["export", str(FP8), "--perfetto", str(tmp_path / "out.pftrace")])
    assert left.value.code == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="No space left on device"):
        command._write(None, "perfetto", tmp_path / "out.pftrace")  # type: ignore[arg-type]


def test_progress_is_shown_on_a_terminal_and_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tetrace.cli.progress._PATIENCE_S", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        main(["export", str(FP8), "--perfetto", str(tmp_path / "\x1b[31mout.pftrace"), "--steps", "7"])
    assert not left.value.code
    shown = capsys.readouterr().err
    assert "reading te4-fp8.sqlite" in shown
    assert "writing �[31mout.pftrace" in shown
