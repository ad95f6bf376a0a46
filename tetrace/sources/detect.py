"""What is this path? One list of readers, each with the test that recognizes its input."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tetrace.errors import InputError
from tetrace.trace import store
from tetrace.trace.trace import Trace

Progress = Callable[[int, int], None]

_SQLITE_MAGIC = b"SQLite format 3\x00"
_REPORT_MAGIC = b"NVIDIA Tegra Profiler Report"
_GZIP_MAGIC = b"\x1f\x8b"
_SUPPORTED = (
    "a .tetrace folder, a Nsight Systems .nsys-rep, .sqlite or parquetdir, or a PyTorch profiler .json or .json.gz"
)
# Recordings of a folder that an error names.
_MOST_NAMES = 5


@dataclass(frozen=True)
class Reader:
    """One kind of input."""

    name: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path, Progress | None], Trace]


def load(path: str | Path, progress: Progress | None = None) -> Trace:
    """The trace recorded in `path`: any input that `READERS` lists.

    `progress` is told (done, total) while a long import runs. The input is never written to.
    Raises `InputError`, naming the file, what is wrong with it and what to do.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give {_SUPPORTED}")
        if path.is_dir():
            next(path.iterdir(), None)  # raises where it must not be listed: such a folder else looks empty
        for reader in READERS:
            if reader.recognizes(path):
                return reader.read(path, progress)
        inside = _recordings_in(path) if path.is_dir() else []
        if inside:
            left = f" and {len(inside) - _MOST_NAMES} more" if len(inside) > _MOST_NAMES else ""
            raise InputError(f"{path}: this folder holds {', '.join(inside[:_MOST_NAMES])}{left}; name one of them")
        raise InputError(f"{path}: {_unknown(path)}; give {_SUPPORTED}")
    except PermissionError as error:
        raise InputError(
            f"{error.filename or path}: not readable by this user; change its permissions or copy it"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _recordings_in(folder: Path) -> list[str]:
    """Names in a folder that are recordings by what they are called or hold."""
    return [
        _name(path)
        for path in sorted(folder.iterdir())
        if store.is_store(path) or path.name.endswith((".nsys-rep", ".sqlite", ".parquetdir", ".tetrace.recording"))
    ]


def _unknown(path: Path) -> str:
    if path.is_dir():
        return "this folder holds neither a .tetrace nor the Parquet files of nsys export --type parquetdir"
    if not path.is_file():
        return f"this is no file but a {_kind(path)}"
    if path.stat().st_size == 0:
        return "the file is empty (was the recording or its export interrupted?)"
    if path.suffix in (".sqlite", ".db"):
        return "the file does not begin as a SQLite database does"
    return "the file is none that tetrace knows"


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _name(path: Path) -> str:
    """The last part of `path` as text: file names need not be UTF-8."""
    return os.fsencode(path.name or path.resolve().name).decode("utf-8", "replace")


def _begins(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _is_report(path: Path) -> bool:
    return path.is_file() and (path.suffix in (".nsys-rep", ".qdrep") or _begins(path, _REPORT_MAGIC))


def _is_json(path: Path) -> bool:
    if not path.is_file():
        return False
    if _begins(path, _GZIP_MAGIC):
        return True
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def _read_store(path: Path, _progress: Progress | None) -> Trace:
    return _called(store.read(path), path)


def _called(trace: Trace, path: Path) -> Trace:
    """`trace` under the name that its file has now: it may have another than when it was recorded or imported."""
    return dataclasses.replace(trace, metadata=dataclasses.replace(trace.metadata, source=_name(path)))


def _read_sqlite(path: Path, progress: Progress | None, beside: Path | None = None) -> Trace:
    from tetrace.sources import sidecar
    from tetrace.sources.nsys_tables import SqliteTables

    return sidecar.read_export(
        SqliteTables(path), _name(path), "Nsight Systems SQLite export", beside or path.parent, progress
    )


def _read_parquet(path: Path, progress: Progress | None, beside: Path | None = None) -> Trace:
    from tetrace.sources import sidecar
    from tetrace.sources.nsys_tables import ParquetTables

    return sidecar.read_export(
        ParquetTables(path), _name(path), "Nsight Systems Parquet export", beside or path.parent, progress
    )


def _read_report(path: Path, progress: Progress | None) -> Trace:
    """A .nsys-rep, exported into a temporary folder by the `nsys` on PATH."""
    if not path.stat().st_size:
        raise InputError(f"{path}: the file is empty (was the recording interrupted?); record again")
    output, name = shlex.quote(f"{path.stem}.parquetdir"), shlex.quote(path.name)
    command = f"nsys export --type parquetdir --output {output} {name}"
    if not shutil.which("nsys"):
        raise InputError(f"{path}: needs nsys to be read, and none is on PATH; where it was recorded run: {command}")
    reasons = []
    with tempfile.TemporaryDirectory(prefix="tetrace-") as folder:
        # Releases before 2023 know no parquetdir; it is the faster one to read.
        for kind, read in (("parquetdir", _read_parquet), ("sqlite", _read_sqlite)):
            export = Path(folder) / f"export.{kind}"
            try:
                _export(path, kind, export)
                return _called(read(export, progress, path.parent), path)
            except (InputError, OSError) as error:
                reasons.append(str(error).replace(f"{export}: ", "").replace(f"{export}{os.sep}", ""))
    raise InputError(f"{path}: nsys export failed ({reasons[0]}); try it with the nsys that recorded it: {command}")


def _export(path: Path, kind: str, export: Path) -> None:
    """Export a report with nsys. Raises `InputError` with what nsys says when that fails."""
    arguments = ["nsys", "export", "--type", kind, "--output", str(export), str(path.resolve())]
    try:
        run = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise InputError(error.strerror or str(error)) from error
    if run.returncode or not export.exists():
        said = " ".join((run.stderr or run.stdout).split())[-300:]
        raise InputError(said or (f"exit code {run.returncode}" if run.returncode else "it wrote nothing"))


def _read_kineto(path: Path, progress: Progress | None) -> Trace:
    from tetrace.sources import kineto

    return kineto.read(path, progress)


def _is_recording(path: Path) -> bool:
    return path.is_dir() and ((path / "run.json").is_file() or any(path.glob("process-*/process.json")))


def _read_recording(path: Path, progress: Progress | None) -> Trace:
    from tetrace.sources import sidecar

    return sidecar.read(path, progress)


READERS: tuple[Reader, ...] = (
    Reader("tetrace recording", _is_recording, _read_recording),
    Reader("tetrace", store.is_store, _read_store),
    Reader("nsys sqlite", lambda path: _begins(path, _SQLITE_MAGIC), _read_sqlite),
    Reader("nsys parquetdir", lambda path: path.is_dir() and any(path.glob("*.parquet")), _read_parquet),
    Reader("nsys report", _is_report, _read_report),
    Reader("kineto", _is_json, _read_kineto),
)
