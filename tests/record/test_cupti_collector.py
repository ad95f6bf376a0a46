"""How tetrace's own collector is found, what its processes are given, and what is said of a GPU that is not recorded."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from tests.descent import DESCENT
from tetrace import load
from tetrace.errors import InputError, UsageError
from tetrace.record import build, collectors, cupti, libcupti
from tetrace.record.host import Host
from tetrace.record.options import Options, Window
from tetrace.sources import cupti_rows

PROGRAM = (sys.executable, "train.py")


def toolkit(root: Path, *names: str, under: str = "extras/CUPTI/lib64") -> Path:
    """A CUDA toolkit with these libraries; the first is a file, the others are links to it."""
    folder = root / under
    folder.mkdir(parents=True)
    (folder / names[0]).write_text("")
    for name in names[1:]:
        (folder / name).symlink_to(names[0])
    return root


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No libcupti but those of a test."""
    monkeypatch.setattr(libcupti, "_toolkits", lambda environ: iter(libcupti_folders(environ)))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])


def libcupti_folders(environ: dict[str, str]) -> list[Path]:
    root = environ.get("CUDA_HOME")
    return [Path(root) / "extras" / "CUPTI" / "lib64"] if root else []


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of the collector's library."""
    file = tmp_path / "libtetrace_collector.so"
    file.write_text("")
    monkeypatch.setattr(cupti, "LIBRARY", file)
    return file


# Where libcupti is looked for.


@pytest.mark.usefixtures("alone")
def test_a_library_has_the_name_that_programs_link_to(tmp_path: Path) -> None:
    home = toolkit(tmp_path, "libcupti.so.2025.3.1", "libcupti.so", "libcupti.so.13", "libcuptistub.so")
    found = libcupti.candidates(PROGRAM, {"CUDA_HOME": str(home)})
    assert found == (str(home / "extras/CUPTI/lib64/libcupti.so.13"),)


@pytest.mark.usefixtures("alone")
def test_that_of_torchs_cuda_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    toolkit(packages, "libcupti.so.13", under="nvidia/cu13/lib")
    toolkit(packages, "libcupti.so.12", under="nvidia/cuda_cupti/lib")
    toolkit(packages, "libcupti-3a1b.so.12", under="torch/lib")
    (tmp_path / "lib" / "libcupti.so.11").write_text("")
    home = toolkit(tmp_path / "cuda", "libcupti.so.12")
    monkeypatch.setattr(sys, "path", [str(packages)])

    def names() -> list[str]:
        return [
            str(Path(path).relative_to(tmp_path)) for path in libcupti.candidates(PROGRAM, {"CUDA_HOME": str(home)})
        ]

    of_12 = ["lib/python3.11/site-packages/nvidia/cuda_cupti/lib/libcupti.so.12"]
    of_12 += ["lib/python3.11/site-packages/torch/lib/libcupti-3a1b.so.12", "cuda/extras/CUPTI/lib64/libcupti.so.12"]
    of_13, of_11 = "lib/python3.11/site-packages/nvidia/cu13/lib/libcupti.so.13", "lib/libcupti.so.11"
    assert names() == [of_13, *of_12, of_11]
    (packages / "torch" / "version.py").write_text("__version__ = '2.9'\ncuda: Optional[str] = '12.8'\n")
    assert names() == [*of_12, of_13, of_11]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("by", ["python", "script"])
def test_another_python_is_asked_for_its_folders(by: str, tmp_path: Path) -> None:
    packages = tmp_path / "site"
    toolkit(packages, "libcupti.so.13", under="nvidia/cu13/lib")
    python, script = tmp_path / "env" / "bin" / "python3", tmp_path / "env" / "bin" / "torchrun"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho {packages}\n")
    script.write_text(f"#!{python}\n")
    for file in (python, script):
        file.chmod(0o755)
    program = (str(python if by == "python" else script), "train.py")
    assert libcupti.candidates(program, {}) == (str(packages / "nvidia/cu13/lib/libcupti.so.13"),)


# What the collector is given, and why it cannot be used.


def test_what_the_processes_are_given(tmp_path: Path, library: Path) -> None:
    home = str(toolkit(tmp_path / "cuda", "libcupti.so.13"))
    found = cupti.find(PROGRAM, "all", False, {"CUDA_HOME": home})
    variables = found.variables()
    assert {variables[name] for name in cupti.INJECTIONS} == {str(library)}
    assert json.loads(variables["TETRACE_COLLECTOR"]) == {"calls": "all", "start": "window"}
    assert f"{home}/extras/CUPTI/lib64/libcupti.so.13" in variables["TETRACE_CUPTI"].split(":")
    assert "libcupti.so.13" in found.describe()["libraries"]
    assert "/" not in json.dumps(found.describe())
    whole = cupti.find(PROGRAM, "launches", True, {"CUDA_HOME": home}).variables()
    assert json.loads(whole["TETRACE_COLLECTOR"]) == {"calls": "launches", "start": "now"}


@pytest.mark.usefixtures("alone", "library")
@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "no libcupti.so was found beside torch or in a CUDA toolkit; pip install nvidia-cuda-cupti"),
        ({"NSYS_PROFILING_SESSION_ID": "1"}, "already under nsys; leave its command out"),
        (
            {"CUDA_INJECTION64_PATH": "/opt/tools/libtool.so"},
            "CUDA_INJECTION64_PATH is set already (libtool.so), and loads one library only; unset",
        ),
        ({"NVTX_INJECTION64_PATH": "/opt/tools/libtool.so"}, "NVTX_INJECTION64_PATH is set already (libtool.so)"),
    ],
)
def test_why_it_cannot_record(environ: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as error:
        cupti.find(PROGRAM, "launches", False, environ)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_build_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupti, "LIBRARY", tmp_path / "gone.so")
    monkeypatch.setattr(build, "left_out", lambda: [("the collector was not built: no cupti.h", "pip install it")])
    with pytest.raises(UsageError, match=r"^the collector was not built: no cupti\.h; pip install it$"):
        cupti.find(PROGRAM, "launches", False, {})


# Which collector is chosen.


def refuse(*_arguments: object) -> collectors.Collector:
    raise UsageError("it is not there; install it")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with a GPU, on which the collectors named are found."""
    monkeypatch.setattr(collectors, "_DEVICES", ("/dev/null",))

    def only(*names: str) -> None:
        one = cupti.Cupti(Path("x.so"), ())
        found = {name: (lambda *_: one) if name in names else refuse for name in ("nsys", "cupti")}
        monkeypatch.setattr(collectors, "_FIND", {**found, "host": lambda *_: Host()})

    return only


def test_auto_takes_nsys_then_cupti_then_the_host(gpu: Callable[..., None]) -> None:
    def chosen() -> tuple[bool, str]:
        collector, reason = collectors.choose(Options(), PROGRAM, {})
        return collector.records_gpu, reason

    gpu("nsys", "cupti")
    assert chosen() == (True, "nsys is there")
    gpu("cupti")
    assert chosen() == (True, "it is not there; install it")
    gpu()
    assert chosen() == (False, "it is not there; install it, and it is not there; install it")
    gpu("cupti")
    assert collectors.after("nsys", "it did not start", Options(), PROGRAM, {})[1] == "it did not start"


def test_one_that_was_asked_for_is_taken_or_refused(gpu: Callable[..., None]) -> None:
    gpu("nsys")
    with pytest.raises(UsageError, match="it is not there; install it"):
        collectors.choose(Options(collector="cupti"), PROGRAM, {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(collector="cupti", nsys=("-d 3",)), "--nsys has no meaning with --collector cupti"),
        (Options(collector="nsys", calls="all"), "--calls all has no meaning with --collector nsys"),
        (Options(collector="host", calls="all"), "--calls all has no meaning with --collector host"),
    ],
)
def test_options_of_another_collector(options: Options, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        collectors.choose(options, PROGRAM, {})


def test_the_window_is_each_processes_own(library: Path) -> None:
    one = cupti.Cupti(library, ())
    assert Options(window=Window()).document(one.name, one.capture)["capture"] == "collector"


# What is said of what it left.


def frames(folder: Path, *kinds: str) -> None:
    """A cupti.bin with a row of each kind, and a torn frame."""
    folder.mkdir(parents=True, exist_ok=True)
    written = b"TETRCUP\0" + struct.pack("<IIqq", cupti_rows.VERSION, 130000, 1, 0)
    for kind in kinds:
        row_bytes = cupti_rows.DTYPES[kind].itemsize
        head = struct.pack("<IHHII", cupti_rows.FRAME_MAGIC, cupti_rows.KINDS[kind], row_bytes, 1, row_bytes)
        written += head + bytes(row_bytes + -row_bytes % 8)
    (folder / "cupti.bin").write_bytes(written + b"FR")


def process(folder: Path, **facts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "process.json").write_text(json.dumps(facts))


def test_a_recording_with_activities_needs_no_word(tmp_path: Path) -> None:
    frames(tmp_path / "process-1", "event", "device")
    frames(tmp_path / "process-2", "event", "kernel")
    process(tmp_path / "process-3", collector={"state": "failed", "reason": "x"})
    assert cupti.Cupti(Path("x"), ()).collect(tmp_path) == ()


@pytest.mark.parametrize(
    ("facts", "kinds", "says"),
    [
        ({"gpu": None}, (), "because CUDA was never initialised"),
        ({"gpu": None}, ("event",), "because CUDA was never initialised"),
        ({"gpu": {"name": "H200"}}, (), "none was launched in the recorded steps"),
        ({}, ("event", "device"), "none was launched in the recorded steps"),
    ],
)
def test_why_there_is_no_activity(facts: dict[str, object], kinds: tuple[str, ...], says: str, tmp_path: Path) -> None:
    process(tmp_path / "process-1", **facts)
    if kinds:
        frames(tmp_path / "process-1", *kinds)
    (notice,) = cupti.Cupti(Path("x"), ()).collect(tmp_path)
    assert says in notice


def test_a_failure_is_an_error(tmp_path: Path) -> None:
    process(tmp_path / "process-1", collector={"state": "failed", "reason": "nsys holds CUPTI; end it"})
    with pytest.raises(InputError, match=r"^the GPU was not recorded: nsys holds CUPTI; end it$"):
        cupti.Cupti(Path("x"), ()).collect(tmp_path)
    with pytest.raises(InputError, match="CUDA was never initialised"):
        cupti.Cupti(Path("x"), ()).collect(tmp_path / "process-1")


# The command, with a stand-in for the library.


TRAINS = (
    DESCENT
    + """
import os, signal, sys, time
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
optimizer = Descent(model.parameters(), {})
for step in range(6):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    if step == 4:
        eval(sys.argv[1])
print("trained")
"""
)
RECORD = """
import sys
from pathlib import Path
from tetrace.record import cupti
cupti.LIBRARY = Path(sys.argv.pop(1))
from tetrace.cli.main import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's stand-in, compiled."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler")
    pytest.importorskip("torch")
    built = tmp_path_factory.mktemp("collector") / "libtetrace_collector.so"
    source = Path(__file__).with_name("stand_in_collector.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, source], check=True)
    return built


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty, so that the first recording has the observer compiled."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def record(
    stand_in: Path, cache: Path, compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `tetrace record --collector cupti -o run trains.py DOES` in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    home = toolkit(tmp_path / "cuda", "libcupti.so.13")
    (tmp_path / "trains.py").write_text(TRAINS)

    def run(does: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RECORD, str(stand_in), "record", "--collector", "cupti", "-o", "run"]
        told = {"CUDA_HOME": str(home), "XDG_CACHE_HOME": str(cache), "CXX": str(compiler)}
        return subprocess.run(
            [*command, *options, "trains.py", does],
            env={**os.environ, "STAND_IN_LOG": str(tmp_path / "calls"), **told, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def calls(folder: Path) -> list[str]:
    return [line.partition(" ")[2] for line in (folder / "calls").read_text().splitlines()]


def test_a_run_without_cuda_keeps_its_ranges_and_says_so(
    record: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = record("None")
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "no GPU activity was recorded because CUDA was never initialised" in " ".join(done.stderr.split())
    assert calls(tmp_path) == ["start", "stop", "flush"]
    trace = load(tmp_path / "run.tetrace")
    assert {"step", "module"} <= set(trace.words("sites", "kind"))
    assert (trace.metadata.facts["collector"], trace.metadata.facts["reason"]) == ("cupti", "asked for")
    assert not (tmp_path / "run.tetrace.recording").exists()


def test_what_the_collector_wrote_is_in_the_recording(
    record: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = record("None", "--calls", "all", STAND_IN_RECORDS="1")
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    trace = load(tmp_path / "run.tetrace")
    names = trace.words("activities", "name")
    assert [names[code] for code in trace.column("activities", "name").tolist()] == ["k(float*)"]
    assert trace.metadata.facts["cupti"] == {"calls": "all", "libraries": ANY}
    assert trace.metadata.facts["options"]["capture"] == "collector"


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        ("[][1]", 1, ["start", "stop", "flush"]),
        ("os._exit(7)", 7, ["start", "stop", "flush"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ["start"]),
    ],
    ids=["exception", "os._exit", "kill"],
)
def test_what_was_recorded_before_the_end_is_saved(
    does: str, code: int, said: list[str], record: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = record(does)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert calls(tmp_path) == said
    assert "module" in load(tmp_path / "run.tetrace").words("sites", "kind")


def test_a_collector_that_fails_makes_the_exit_code_2_and_keeps_the_folder(
    record: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = record("None", STAND_IN_STATE="failed")
    assert (done.returncode, done.stdout) == (2, "trained\n"), done.stderr
    kept = tmp_path / "run.tetrace.recording"
    what_now = f"{kept} is kept: tetrace report reads what is in it, or remove it"
    assert done.stderr.splitlines()[-1] == f"tetrace: the GPU was not recorded: a reason; {what_now}"
    assert kept.exists()
    assert "module" in load(tmp_path / "run.tetrace").words("sites", "kind")


def test_what_is_in_the_way_is_told_before_anything_runs(
    record: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = record("None", CUDA_INJECTION64_PATH="/opt/libtool.so")
    assert (done.returncode, done.stdout) == (2, "")
    assert "CUDA_INJECTION64_PATH is set already (libtool.so)" in done.stderr
    assert not (tmp_path / "run.tetrace.recording").exists()
