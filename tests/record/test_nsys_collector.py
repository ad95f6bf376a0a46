"""How nsys is found and called, and what is said where it fails; `nsys` is a stand-in here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from stand_in_nsys import write

from tetrace.errors import InputError, UsageError
from tetrace.record import nsys

EXPORT = Path(__file__).parent.parent / "data" / "te4-fp8.sqlite"
OURS = (
    *("--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--cuda-graph-trace=node"),
    *("--kill=none", "--wait=primary", "--force-overwrite=true"),
)
CAPTURE = ("--capture-range=nvtx", "--nvtx-capture=tetrace-capture@tetrace", "--capture-range-end=stop")


def called(*arguments: str, whole_run: bool = False) -> tuple[list[str], str]:
    found = nsys.Nsys("nsys", "2025.3.1", nsys.split(arguments), whole_run)
    return found.command(Path("/w")), found.capture


def test_what_nsys_is_called_with() -> None:
    assert called() == (["nsys", "profile", *OURS, *CAPTURE, "--output=/w/nsys"], "nvtx")
    assert called(whole_run=True) == (["nsys", "profile", *OURS, "--output=/w/nsys"], "none")


@pytest.mark.parametrize(
    ("given", "replaced"),
    [
        ("-t cuda,nvtx,osrt", "--trace"),
        ("-tcuda", "--trace"),
        ("--trace=cuda", "--trace"),
        ("-s cpu", "--sample"),
        ("--wait all", "--wait"),
        ("--cuda-graph-trace=graph", "--cuda-graph-trace"),
        ("--cuda-memory-usage=true", ""),
    ],
)
def test_the_users_arguments_replace_ours(given: str, replaced: str) -> None:
    ours = [word for word in (*OURS, *CAPTURE) if word.partition("=")[0] != replaced]
    assert called(given) == (["nsys", "profile", *ours, "--output=/w/nsys", *given.split()], "nvtx")


@pytest.mark.parametrize("given", ["-c cudaProfilerApi", "--capture-range=nvtx --nvtx-capture=mine"])
def test_the_users_capture_range_wins(given: str) -> None:
    assert called(given) == (["nsys", "profile", *OURS, "--output=/w/nsys", *given.split()], "none")


def test_several_quoted_arguments() -> None:
    assert nsys.split(("--a 'b c'", "-d 3")) == ("--a", "b c", "-d", "3")
    with pytest.raises(UsageError, match="cannot be split into words"):
        nsys.split(("'",))
    with pytest.raises(UsageError, match="name the recording with -o"):
        nsys.split(("-o x",))


def test_nsys_is_found_with_its_version(tmp_path: Path) -> None:
    write(tmp_path / "bin", EXPORT)
    found = nsys.find(("-d", "3"), False, {"PATH": str(tmp_path / "bin")})
    assert (found.path, found.version) == (str(tmp_path / "bin" / "nsys"), "2025.3.1.90")
    write(tmp_path / "cuda" / "bin", EXPORT)
    assert nsys.find((), False, {"PATH": "/nowhere", "CUDA_HOME": str(tmp_path / "cuda")}).version == "2025.3.1.90"
    assert found.describe() == {"version": "2025.3.1.90", "name": "nsys", "arguments": ["-d"]}


def test_why_an_nsys_cannot_be_used(tmp_path: Path) -> None:
    def why(**environ: str) -> str:
        with pytest.raises(UsageError) as error:
            nsys.find((), False, environ)
        return str(error.value)

    assert "nsys is not on PATH; install Nsight Systems" in why(PATH=str(tmp_path))
    assert "already under nsys" in why(PATH=str(tmp_path), NSYS_PROFILING_SESSION_ID="1")
    write(tmp_path, EXPORT, version="2022.4.2.50-32196742v0")
    assert "nsys 2022.4.2.50 is too old; 2023.1 or newer is needed" in why(PATH=str(tmp_path))
    write(tmp_path, EXPORT, version="of nothing")
    assert "does not say its version (NVIDIA Nsight Systems version of nothing)" in why(PATH=str(tmp_path))
    (tmp_path / "nsys").write_text("#!/no/such/interpreter\n")
    assert "does not run (No such file or directory)" in why(PATH=str(tmp_path))


def test_the_export_is_parquet_or_else_sqlite(tmp_path: Path) -> None:
    (tmp_path / "nsys.nsys-rep").write_text("")
    for kinds, made in ((("parquetdir", "sqlite"), "nsys.parquetdir"), (("sqlite",), "nsys.sqlite")):
        log = write(tmp_path / "bin", EXPORT, exports=kinds)
        nsys.Nsys(str(tmp_path / "bin" / "nsys"), "2025.3.1").collect(tmp_path)
        assert (tmp_path / made).exists()
        (tmp_path / "nsys.parquetdir").unlink(missing_ok=True)
    assert [json.loads(line)[0][2] for line in log.read_text().splitlines()] == ["parquetdir", "parquetdir", "sqlite"]


@pytest.mark.parametrize(
    ("left", "log", "says"),
    [
        (["nsys.qdstrm"], "Importer error status: x", "could not import its own capture (Importer error status: x)"),
        (["nsys.nsys-rep"], "", "nsys export failed (unknown type parquetdir)"),
        ([], "Generating '/tmp/x'\n[1/1] [====100%] \n", "the capture never started"),
        ([], "Failed to create '/tmp/x': No space left on device", "make room, or set TMPDIR to a larger disk"),
        ([], "error: Permission denied: /tmp/nvidia", "nsys had no right to record (error: Permission denied"),
    ],
)
def test_why_there_is_no_export(tmp_path: Path, left: list[str], log: str, says: str) -> None:
    write(tmp_path / "bin", EXPORT, exports=())
    for name in left:
        (tmp_path / name).write_text("")
    (tmp_path / "nsys.log").write_text(log)
    with pytest.raises(InputError) as error:
        nsys.Nsys(str(tmp_path / "bin" / "nsys"), "2025.3.1").collect(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert all(name in str(error.value) for name in left)


def test_the_whole_run_without_a_report(tmp_path: Path) -> None:
    (tmp_path / "nsys.log").write_text("The target application exited with a core dump\n")
    with pytest.raises(InputError, match=r"nsys left no report \(The target application exited with a core dump\)"):
        nsys.Nsys("nsys", "2025.3.1", whole_run=True).collect(tmp_path)


def test_registered_strings_open_the_capture(tmp_path: Path) -> None:
    log = write(tmp_path / "bin", EXPORT)
    running = nsys.Nsys(str(tmp_path / "bin" / "nsys"), "2025.3.1").start(["true"], dict(os.environ), tmp_path)
    assert running.wait().code == 0
    assert json.loads(log.read_text())[1]["NSYS_NVTX_PROFILER_REGISTER_ONLY"] == "0"
