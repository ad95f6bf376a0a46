"""Which shared libraries a process has, and what they say of themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tetrace import loaded

ASK = textwrap.dedent("""
    import ctypes, sys
    from tetrace import loaded
    print(loaded.cudnn_version(), loaded.folders("libcudnn"))
    held = [ctypes.CDLL(path) for path in sys.argv[1:]]
    print(loaded.cudnn_version(), sorted(loaded.folders("libcudnn")))
""")


def _library(folder: Path, name: str, source: str) -> str:
    """A shared library of one C source; folders may have spaces."""
    folder.mkdir()
    (folder / "source.c").write_text(source)
    path = str(folder / name)
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", path, str(folder / "source.c")], check=True)
    return path


def test_the_version_of_the_cudnn_that_is_loaded(tmp_path: Path) -> None:
    path = _library(tmp_path / "a folder", "libcudnn.so.9", "unsigned long cudnnGetVersion(void) { return 91400; }")
    done = subprocess.run([sys.executable, "-c", ASK, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None set()", f"91400 {[str(tmp_path / 'a folder')]}"]


def test_a_library_that_only_has_the_name_has_no_version(tmp_path: Path) -> None:
    path = _library(tmp_path / "other", "libcudnn.so.1", "int other(void) { return 1; }")
    done = subprocess.run([sys.executable, "-c", ASK, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == f"None {[str(tmp_path / 'other')]}"


def test_parts_of_names_are_no_libraries() -> None:
    assert loaded.folders("ibc") == set()
