"""Where libcupti lies that a script's process could load: beside its torch, else in a CUDA toolkit.

A process that has one loaded already uses that one; this is for those that have none when CUDA starts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

# Those of old wheels of torch have a hash in their name.
_NAME = re.compile(r"libcupti(-[0-9a-f]+)?\.so(\.\d+)*")
_IN_PACKAGES = ("nvidia/*/lib", "torch/lib")
_IN_TOOLKIT = ("extras/CUPTI/lib64", "lib64", "lib", "targets/*/lib")
_PATIENCE_S = 20


def candidates(program: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Files, the best first, for the command `program`: those of the CUDA that its torch is for come first."""
    packages = list(_packages(program))
    found: dict[str, Path] = {}
    for folder in (*_beside(packages), *_toolkits(environ)):
        for path in _libraries(folder):
            found.setdefault(os.path.realpath(path), path)
    wanted = _cuda_of_torch(packages)
    # Sorting keeps the order of what is equal.
    return tuple(str(path) for path in sorted(found.values(), key=lambda path: (_major(path) != wanted, -_major(path))))


def _packages(program: Sequence[str]) -> Iterator[Path]:
    """Folders from which the program's Python imports, where it is one."""
    python = _python(program)
    same = python is None or (Path(python).resolve(), _prefix(python)) == (
        Path(sys.executable).resolve(),
        _prefix(sys.executable),
    )
    entries = sys.path if same or python is None else _asked(python)
    yield from (Path(entry) for entry in entries if entry)


def _python(program: Sequence[str]) -> str | None:
    """The Python that runs `program`: itself, or that of a script's first line, as torchrun has; None for others."""
    path = shutil.which(program[0]) if program else None
    if path is None:
        return None
    if re.fullmatch(r"python[\d.]*", Path(path).name):
        return path
    try:
        with Path(path).open("rb") as file:
            first = file.readline(512).decode(errors="replace")
    except OSError:
        return None
    words = first.removeprefix("#!").split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = [found for found in [shutil.which(words[-1])] if found]
    return words[0] if words and "python" in Path(words[0]).name else None


def _prefix(python: str) -> Path:
    """The folder above its bin: what tells one virtual environment from the next."""
    return Path(python).absolute().parent.parent


def _asked(python: str) -> list[str]:
    """`sys.path` of another Python; empty where it does not say."""
    code = "import sys; print('\\n'.join(sys.path))"
    try:
        said = subprocess.run(
            [python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.stdout.decode(errors="replace").splitlines() if not said.returncode else []


def _beside(packages: Iterable[Path]) -> Iterator[Path]:
    for folder in packages:
        for pattern in _IN_PACKAGES:
            yield from sorted(folder.glob(pattern))
        # An environment of conda keeps libraries above its lib/python3.x/site-packages.
        if folder.name == "site-packages" and folder.parent.parent.name == "lib":
            yield folder.parent.parent


def _toolkits(environ: Mapping[str, str]) -> Iterator[Path]:
    named = [Path(root) for name in ("CUDA_HOME", "CUDA_PATH") if (root := environ.get(name))]
    for toolkit in (*named, *sorted(Path("/usr/local").glob("cuda*"))):
        for pattern in _IN_TOOLKIT:
            yield from sorted(toolkit.glob(pattern))


def _libraries(folder: Path) -> Iterator[Path]:
    """Each libcupti of a folder once, by the name that programs link to."""
    by_file: dict[str, Path] = {}
    try:
        names = sorted((path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=len, reverse=True)
    except OSError:
        return
    for name in names:
        path, wanted = folder / name, re.search(r"\.so\.\d{1,2}$", name) is not None
        if path.is_file() and os.pathsep not in str(path):
            real = os.path.realpath(path)
            by_file[real] = path if wanted or real not in by_file else by_file[real]
    yield from by_file.values()


def _cuda_of_torch(packages: Iterable[Path]) -> int:
    """The major version of the CUDA that torch was built for, -1 for none: its files are read, importing takes seconds."""
    for folder in packages:
        try:
            text = (folder / "torch" / "version.py").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = re.search(r"^cuda\b[^=]*=\s*['\"](\d+)", text, re.MULTILINE)
        return int(found[1]) if found else -1
    return -1


def _major(path: Path) -> int:
    found = re.search(r"\.so\.(\d{1,2})$", path.name)
    return int(found[1]) if found else 0
