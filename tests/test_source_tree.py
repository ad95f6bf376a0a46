"""A tetrace without its compiled part, which Python finds first where it is started in the source tree."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = ".".join(platform.python_version_tuple()[:2])
RECORDING = ROOT / "tests" / "data" / "te4-fp8.sqlite"
IN_THE_TREE = (
    f"this is tetrace's source tree, without its extension for Python {PYTHON}; run from another folder to use an "
    "installed tetrace, or build this one with `make setup`"
)
INSTALLED = f"this tetrace has no extension for Python {PYTHON}; install it with this Python's pip"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, where nothing was built."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "tetrace", folder / "tetrace", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in `tree`, with what tetrace needs but without the finder of an editable installation."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), *packages])}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("file", "says"), [("CMakeLists.txt", IN_THE_TREE), ("RECORD", INSTALLED)])
def test_the_way_out_is_an_exception_of_ours(tree: Path, file: str, says: str) -> None:
    (tree / file).touch()
    done = python(
        tree, "-c", f"import tetrace\ntry: tetrace.load({str(RECORDING)!r})\nexcept tetrace.TetraceError as e: print(e)"
    )
    (tree / file).unlink()
    assert done.stdout == f"{tree / 'tetrace'}: {says}\n", done.stderr


@pytest.mark.parametrize("command", [("report", str(RECORDING)), ("record", "true"), ("doctor", "--quick")])
def test_the_way_out_is_one_line(tree: Path, command: tuple[str, ...]) -> None:
    done = python(tree, "-m", "tetrace", *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tetrace: {tree / 'tetrace'}: {INSTALLED}\n"


def test_what_needs_no_extension_goes_on(tree: Path) -> None:
    done = python(tree, "-c", "import tetrace; tetrace.step(); print(tetrace.__version__)")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("make") is None or not (ROOT / "Makefile").exists(), reason="needs make and Makefile")
def test_the_demo_installs_the_package_alone() -> None:
    """Neither PyTorch nor what tests and linters need; what `make setup` made serves as well."""
    asked = ["make", "--dry-run", "--no-print-directory", "demo"]
    # What was given to the make that runs the tests is not for this one.
    environ = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "PIP_ARGS", "CMAKE_ARGS")}
    made = {"cwd": ROOT, "env": environ, "capture_output": True, "text": True, "check": True}
    fresh = subprocess.run([*asked, "INSTALLED=none", "READS=none/installed"], **made).stdout
    assert [line.split("install ")[1].split() for line in fresh.splitlines() if "pip install" in line] == [
        ["--disable-pip-version-check", "."]
    ]
    assert "torch" not in fresh
    there = subprocess.run([*asked, "INSTALLED=pyproject.toml"], **made).stdout
    assert there.splitlines()[-1].startswith("./bin/tetrace report ")
