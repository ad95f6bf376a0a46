"""Builds tetrace._C and the collector with CMake and ninja, and takes the studies along. Everything else about the package is
in pyproject.toml.

CMAKE_ARGS adds arguments to the configure step; TETRACE_BUILD_TYPE=Debug builds without optimization. TETRACE_COMPILED names a
wheel of the same sources, out of which what was compiled is taken: nothing is compiled then.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pybind11
from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# Beside _C, where the build makes one (CMakeLists.txt). Loaded by its path, so its name has no Python version in it.
COLLECTOR = Path("tetrace/libtetrace_collector.so")


class CMakeExtension(Extension):
    """An extension whose sources CMakeLists.txt knows."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


def take(wheel: Path, target: Path) -> None:
    """Puts the extension of a wheel, and its collector if it has one, where they would have been built."""
    with zipfile.ZipFile(wheel) as packed:
        if f"tetrace/{target.name}" not in packed.namelist():
            raise SystemExit(f"{wheel} has no tetrace/{target.name}; give a wheel for this Python")
        target.parent.mkdir(parents=True, exist_ok=True)
        for name in {f"tetrace/{target.name}", str(COLLECTOR)} & {*packed.namelist()}:
            (target.parent / Path(name).name).write_bytes(packed.read(name))


class CMakeBuild(build_ext):
    """Configures and builds each extension in the temporary build folder, and the collector with it."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # Of an earlier build, and may not be made again.
        (target.parent / COLLECTOR.name).unlink(missing_ok=True)
        if wheel := os.environ.get("TETRACE_COMPILED"):
            take(Path(wheel), target)
        else:
            self.compile(ext, target)

    def compile(self, ext: Extension, target: Path) -> None:
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").exists():
            raise SystemExit(f"{headers}/Python.h is missing; install Python's headers (Debian: python3-dev)")
        build = Path(self.build_temp).resolve() / ext.name
        # Of an earlier build: it names programs and headers of an isolated environment that is gone.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            *("cmake", "-S", ROOT, "-B", build, "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={os.environ.get('TETRACE_BUILD_TYPE', 'Release')}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1)], check=True)

    def copy_extensions_to_source(self) -> None:
        """For an editable installation."""
        super().copy_extensions_to_source()
        built, beside = Path(self.build_lib, COLLECTOR), ROOT / COLLECTOR
        beside.unlink(missing_ok=True)
        if built.exists():
            self.copy_file(str(built), str(beside))

    def get_outputs(self) -> list[str]:
        collector = Path(self.build_lib, COLLECTOR)
        return [*super().get_outputs(), *([str(collector)] if collector.exists() else [])]


# The studies of profiles/ become tetrace/profiles: what runs them, and the results without recordings (package-data).
STUDIES = sorted(f"tetrace.profiles.{file.parent.name}" for file in ROOT.glob("profiles/*/study.toml"))

setup(
    packages=[*find_namespace_packages(str(ROOT), include=["tetrace", "tetrace.*"]), "tetrace.profiles", *STUDIES],
    package_dir={"tetrace.profiles": "profiles"},
    ext_modules=[CMakeExtension("tetrace._C")],
    cmdclass={"build_ext": CMakeBuild},
)
