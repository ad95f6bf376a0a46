"""The collector that runs the command under Nsight Systems."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tetrace.errors import InputError, UsageError
from tetrace.record import launch, streams
from tetrace.record.running import Running

# The first release with --type parquetdir, and with every option below.
_OLDEST = (2023, 1)
_CAPTURE = ("-c", "--capture-range")
_OUTPUT = ("-o", "--output")
# Each option with its spellings.
_OPTIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("-t", "--trace"), "cuda,nvtx"),
    (("-s", "--sample"), "none"),
    (("--cpuctxsw",), "none"),
    (("--cuda-graph-trace",), "node"),
    (("--kill",), "none"),
    (("-w", "--wait"), "primary"),
    (("-f", "--force-overwrite"), "true"),
)
# A range, unlike cuProfilerStart, needs no CUDA context to be there already; after it the script runs on.
_CAPTURE_OPTIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (_CAPTURE, "nvtx"),
    (("-p", "--nvtx-capture"), "tetrace-capture@tetrace"),
    (("--capture-range-end",), "stop"),
)
_NO_WORDS = re.compile(r"^[\s\[\]=%\d./*-]*$")
_REFUSED = re.compile(r"(?i)permission denied|operation not permitted|insufficient privilege|read-only file system")
_FULL = re.compile(r"(?i)no space left|disk quota")


@dataclass(frozen=True)
class Nsys:
    """One installed nsys, and how the user wants it called. `capture` says who opens its capture: nvtx or none."""

    path: str
    version: str
    arguments: tuple[str, ...] = ()
    whole_run: bool = False
    name = "nsys"
    records_gpu = True

    @property
    def capture(self) -> str:
        """A capture range of the user's own wins; a recording of the whole run needs none."""
        return "none" if self.whole_run or _names(self.arguments, _CAPTURE) else "nvtx"

    def describe(self) -> dict[str, object]:
        """What run.json says of it."""
        options = [word.partition("=")[0] for word in self.arguments if word.startswith("-")]
        # Values may be variables of the environment, so names only.
        return {"version": self.version, "name": Path(self.path).name, "arguments": options}

    def start(self, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Running:
        """Start nsys with the command in it, which gets the user's streams back; nsys' own words go to nsys.log."""
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        with theirs, (folder / "nsys.log").open("wb") as log:
            _send_streams(ours)
            process = subprocess.Popen(
                [*self.command(folder), *_shim(theirs.fileno()), *command],
                env={**environ, **self._variables(environ)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                close_fds=False,
            )
        running = Running(process)
        threading.Thread(target=_listen, args=(ours, running), daemon=True).start()
        return running

    def command(self, folder: Path) -> list[str]:
        """`nsys profile` with our options, less those that the user's replace, and the user's after them."""
        wanted = _OPTIONS + (_CAPTURE_OPTIONS if self.capture == "nvtx" else ())
        ours = (_spelled(names[-1], value) for names, value in wanted if not _names(self.arguments, names))
        return [self.path, "profile", *ours, f"--output={folder / 'nsys'}", *self.arguments]

    def _variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        # Only registered strings open a capture unless this is said, and which string is ours differs by process.
        name = "NSYS_NVTX_PROFILER_REGISTER_ONLY"
        return {name: environ.get(name, "0")} if self.capture == "nvtx" else {}

    def last_words(self, folder: Path) -> str:
        """See `last_words` of this module."""
        return last_words(folder)

    def collect(self, folder: Path) -> tuple[str, ...]:
        """Export the report to nsys.parquetdir, or nsys.sqlite where that fails.

        Raises `InputError` with the reason and the way out where there is no report, or it cannot be exported.
        """
        report = folder / "nsys.nsys-rep"
        if not report.exists():
            raise InputError(self._why_no_report(folder))
        kinds = ("parquetdir", "sqlite")
        reasons = []
        for kind in kinds:
            reason = _export(self.path, report, folder / f"nsys.{kind}", kind)
            if not reason:
                return ()
            reasons.append(reason)
        raise InputError(f"nsys export failed ({reasons[0]}); {report} is kept: tetrace report reads it elsewhere")

    def _why_no_report(self, folder: Path) -> str:
        capture = next(folder.glob("*.qdstrm"), None)
        said = last_words(folder)
        if capture is not None:
            way_out = "another nsys may import it (QdstrmImporter, or the Nsight Systems GUI)"
            return f"nsys {self.version} could not import its own capture ({said}); {capture} is kept: {way_out}"
        if _FULL.search(_log(folder)):
            return f"nsys could not write its capture ({said}); make room, or set TMPDIR to a larger disk"
        if _REFUSED.search(_log(folder)):
            return f"nsys had no right to record ({said}); nsys status --environment says what it misses"
        if self.capture == "nvtx":
            no_step = "no instrumented Python process reached the first step to record"
            return f"the capture never started: {no_step}; --steps all records the whole run"
        return f"nsys left no report ({said}); its words are in {folder / 'nsys.log'}"


def find(arguments: Sequence[str], whole_run: bool, environ: Mapping[str, str]) -> Nsys:
    """The nsys on PATH, or else in CUDA's folder. Raises `UsageError` with the reason where none can record here."""
    session = environ.get("NSYS_PROFILING_SESSION_ID")
    if session:
        raise UsageError("already under nsys; leave its command out, or call tetrace.instrument() in the script")
    places = [environ.get("PATH", os.defpath), *_beside_cuda(environ)]
    path = next((found for place in places if (found := shutil.which("nsys", path=place))), None)
    if path is None:
        raise UsageError("nsys is not on PATH; install Nsight Systems or add its bin folder to PATH")
    version = _version(path)
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise UsageError(f"nsys {version} is too old; {'.'.join(map(str, _OLDEST))} or newer is needed")
    return Nsys(path, version, tuple(arguments), whole_run)


def split(options: Iterable[str]) -> tuple[str, ...]:
    """The words of every --nsys. Raises `UsageError` for what a shell could not split, and for an output."""
    try:
        arguments = tuple(word for text in options for word in shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--nsys cannot be split into words ({error}); check its quotes") from error
    if _names(arguments, _OUTPUT):
        raise UsageError(
            "--nsys sets where nsys writes; name the recording with -o, and keep nsys' with --keep-nsys-rep"
        )
    return arguments


def _beside_cuda(environ: Mapping[str, str]) -> Iterator[str]:
    for root in (environ.get("CUDA_HOME"), environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if root:
            yield str(Path(root) / "bin")


def _version(path: str) -> str:
    """Such as 2025.3.1.90. Raises `UsageError` where nsys does not say."""
    try:
        said = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"{path} does not run ({getattr(error, 'strerror', None) or error}); install it again"
        ) from error
    text = (said.stdout + said.stderr).decode(errors="replace")
    found = re.search(r"\b(20\d\d(?:\.\d+)+)", text)
    if found is None:
        words = " ".join(text.split())[-200:] or f"exit code {said.returncode}"
        raise UsageError(f"{path} does not say its version ({words}); install Nsight Systems again")
    return found[1]


def _names(arguments: Sequence[str], spellings: tuple[str, ...]) -> bool:
    """Whether one of `arguments` is an option with one of these spellings, its value attached or not."""
    return any(
        word == name
        or (word.startswith(f"{name}=") if name.startswith("--") else word.startswith(name) and word[1] != "-")
        for word in arguments
        for name in spellings
    )


def _spelled(name: str, value: str) -> str:
    return f"{name}={value}"


def _shim(ours: int) -> list[str]:
    """The command line of launch.py, with the signals as the user's command would have found them."""
    # Python itself ignores these; what its parent did with them is not known, and hardly anybody ignores them.
    by_python = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ")}
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN and n not in by_python]
    lists = (
        ",".join(str(int(n)) for n in numbers) for numbers in (ignored, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )
    return [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve()), str(ours), *lists]


def _send_streams(to: socket.socket) -> None:
    """The standard streams of the user, for launch.py to take."""
    numbers = streams.of_the_user()
    socket.send_fds(to, [",".join(map(str, numbers)).encode() or b","], numbers)


def _listen(launcher: socket.socket, running: Running) -> None:
    """Take the pid of the user's command from launch.py."""
    with launcher, launcher.makefile(encoding="ascii") as lines:
        for line in lines:
            what, _, number = line.partition(" ")
            if what == "pid":
                running.started(int(number))


def _export(nsys: str, report: Path, output: Path, kind: str) -> str:
    """Export; returns why that failed, "" where it did not."""
    command = [nsys, "export", "--type", kind, "--force-overwrite", "true", "--output", str(output), str(report)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False
        )
    except OSError as error:
        return error.strerror or str(error)
    if not done.returncode and output.exists():
        return ""
    words = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[-200:]
    return words or f"exit code {done.returncode}"


def _log(folder: Path) -> str:
    try:
        return (folder / "nsys.log").read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    except OSError:
        return ""


def last_words(folder: Path) -> str:
    """The last line of nsys' log that says something, an error line rather than another."""
    lines = [" ".join(line.split()) for line in _log(folder).splitlines() if not _NO_WORDS.match(line)]
    errors = [line for line in lines if re.search(r"(?i)error|fail|unable|cannot|unrecogni[sz]ed|invalid", line)]
    return (errors or lines or ["nothing said"])[-1][:300]
