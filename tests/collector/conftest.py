"""Builds what the tests of the collector run, once for all of them (CMakeLists.txt beside this file)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    """A program of the build: that of this environment first."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None or sys.platform != "linux":
        pytest.skip(f"needs {name} and Linux")
    return found


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that builds targets and returns the folder that they are in."""
    pybind11 = pytest.importorskip("pybind11")
    folder = tmp_path_factory.mktemp("cpp")
    configure = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
        *("-DTETRACE_CPP_TESTS=ON", "-DTETRACE_WARNINGS_AS_ERRORS=ON", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    run(configure)

    def build_targets(*targets: str) -> Path:
        run([tool("cmake"), "--build", str(folder), "--parallel", "--target", *targets])
        return folder / "tests" / "collector"

    return build_targets


def run(command: list[str]) -> None:
    """Runs one step of the build."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
