"""Where documents go: standard output, a file, or a folder. Nothing is overwritten unasked, and never the input."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from tetrace.cli.folders import check_folder
from tetrace.errors import UsageError

# What a file of each format is called in a folder that was named.
SUFFIXES = {"terminal": ".txt", "markdown": ".md", **{name: f".{name}" for name in ("json", "csv", "parquet", "html")}}
# What stands for characters that the terminal's encoding does not have.
_PLAIN = str.maketrans(
    {
        "µ": "u",
        "×": "x",
        "…": "~",
        "–": "-",
        "−": "-",
        "±": "+-",
        "·": ".",
        "█": "#",
        "▌": "=",
        "—": "-",
        "→": ">",
        "≥": ">=",
        "≤": "<=",
        **dict(zip("▁▂▃▄▅▆▇", "_.-=+*%", strict=True)),
        "�": "?",
    }
)


def check_output(path: Path | None, what: str, one_document: bool, force: bool, source: Path) -> None:
    """Raise `UsageError` where the output cannot go; asked before the work, so that no long import is lost."""
    if path is None:
        if not one_document and what in ("csv", "parquet"):
            raise UsageError(
                f"--format {what} writes a folder of tables: name it with -o, or choose one table with --by"
            )
        if what == "parquet":
            raise UsageError("--format parquet is no text: name a file with -o")
        return
    check_folder(path)
    refuse_input(path, source)
    if path.exists():
        if not force:
            raise UsageError(f"{path}: exists; choose another name or pass --force")
        if path.is_dir() and one_document:
            raise UsageError(f"{path}: is a folder, and {what} is written as one file; choose another name")
        if path.is_file() and not one_document:
            raise UsageError(f"{path}: is a file, and {what} is written as a folder; choose another name")


def refuse_input(path: Path, source: Path) -> None:
    """Raise `UsageError` where `path` is the input or lies inside it: a recording may be a folder."""
    real, recording = path.resolve(), source.resolve()
    if real == recording or (recording.is_dir() and recording in real.parents):
        raise UsageError(f"{path}: is the input or inside it, which is never written to; choose another place")


def write_output(documents: Mapping[str, str | bytes], path: Path | None, one_document: bool) -> None:
    """Write `documents` to `path`, or the only one to standard output."""
    if path is None:
        _print(documents[""])
        return
    try:
        if one_document:
            _write(path, documents[""])
        else:
            path.mkdir(exist_ok=True)
            for name, content in documents.items():
                _write(path / name, content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose a folder that can") from error
    click.echo(f"tetrace: wrote {path}", err=True)


def _write(path: Path, content: str | bytes) -> None:
    """Beside its final name and renamed: a file that exists is a whole one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _print(content: str | bytes) -> None:
    if isinstance(content, bytes):
        sys.stdout.buffer.write(content)
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        content.encode(encoding)
    except UnicodeEncodeError:
        content = content.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(content)
