"""What is run: a script, a module, or any command, and the name that its recording gets."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tetrace.errors import UsageError


@dataclass(frozen=True)
class Command:
    """`typed` is what the user wrote, `run` what is executed, `name` what the recording is called after."""

    typed: tuple[str, ...]
    run: tuple[str, ...]
    name: str


def command(typed: Sequence[str]) -> Command:
    """The command that `typed` means. Raises `UsageError` where it cannot be run."""
    return Command(tuple(typed), _run(typed), _name(typed))


def _run(typed: Sequence[str]) -> tuple[str, ...]:
    first = typed[0]
    if first == "-m":
        if len(typed) == 1:
            raise UsageError("-m names no module; give -m PACKAGE.MODULE and its arguments")
        return (sys.executable, *typed)
    if first.endswith(".py") and not Path(first).is_dir():
        return _script(typed)
    if shutil.which(first):
        return tuple(typed)
    if Path(first).is_file():
        raise UsageError(f"{first}: is not executable; name what runs it (bash {first}) or make it executable")
    raise UsageError(f"{first}: no such script here, and no such command on PATH")


def _script(typed: Sequence[str]) -> tuple[str, ...]:
    script = Path(typed[0])
    if not script.exists():
        raise UsageError(f"{script}: no such script; paths are relative to {_folder_in_words()}")
    if not os.access(script, os.R_OK):
        raise UsageError(f"{script}: not readable by this user; change its permissions")
    return (sys.executable, *typed)


def _folder_in_words() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "the current folder, which is gone"


def _name(typed: Sequence[str]) -> str:
    """`train` for train.py, for -m package.train, and for torchrun and its like around either."""
    scripts = (word for word in typed if word.endswith((".py", ".sh")) and not word.startswith("-"))
    script = next(scripts, None)
    if script is None and "-m" in typed[:-1]:
        script = typed[typed.index("-m") + 1].rpartition(".")[2]
    stem = Path(script or typed[0]).stem
    return re.sub(r"[^\w.+-]", "_", stem).lstrip(".-") or "recording"
