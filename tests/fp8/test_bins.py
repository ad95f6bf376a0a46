"""The kernels' histogram of a block counts exactly: its code, run by threads of the processor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "csrc"


def test_every_bin_holds_what_was_added(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or not SOURCES.is_dir():
        pytest.skip("needs g++ and the sources")
    program = tmp_path / "bins_test"
    options = ["-std=c++20", "-O1", "-g", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("bins_test.cpp")
    subprocess.run([compiler, *options, "-I", SOURCES, source, "-o", program], check=True, timeout=300)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
