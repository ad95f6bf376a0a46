"""Builds tetrace._C with CMake and ninja. Everything about the package is in pyproject.toml.

CMAKE_ARGS adds arguments to the configure step; TETRACE_BUILD_TYPE=Debug builds without optimization.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeExtension(Extension):
    """An extension whose sources CMakeLists.txt knows."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    """Configures and builds each extension in the temporary build folder."""

    def build_extension(self, ext: Extension) -> None:
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").exists():
            raise SystemExit(f"{headers}/Python.h is missing; install Python's headers (Debian: python3-dev)")
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
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


setup(ext_modules=[CMakeExtension("tetrace._C")], cmdclass={"build_ext": CMakeBuild})
