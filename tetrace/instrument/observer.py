"""Builds and loads the observer of autograd's nodes and of tensors (csrc/observer.cpp), once for each torch that is installed.

`build` runs a C++ compiler, for five seconds up to half a minute (torch's headers of tensors are long), so it is called before
the script starts, never inside it; it imports no torch. `load` takes what was built for the torch of this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tetrace.errors import TetraceError

SOURCE = Path(__file__).parent / "csrc" / "observer.cpp"
# c10::detail::torchCheckFail(..., std::string const&), whose name has the old string in it.
_OLD_ABI = b"torchCheckFailEPKcS2_jRKSs"
_STANDARDS = ("c++20", "c++17")  # torch from 2.10 wants 20; compilers that came with torch 2.4 may know only 17


def build() -> Path:
    """The observer's library for the torch that this Python imports, compiled unless it was before.

    Raises `TetraceError` without torch, without a C++ compiler, or where compiling fails.
    """
    torch = _torch_folder()
    target = _target(torch)
    if target.exists():
        return target
    compiler = _compiler()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / "lock"):
            if not target.exists():
                print("tetrace: building the autograd observer, once for this PyTorch", file=sys.stderr)  # noqa: T201
                _compile(compiler, torch, target)
    except OSError as error:
        raise TetraceError(f"{target.parent}: {error.strerror}; set XDG_CACHE_HOME to a writable folder") from error
    return target


def load() -> Any:
    """The observer's library, loaded into this process. Raises `TetraceError` when it was not built for this torch."""
    folder = _torch_folder()
    target, binary = _target(folder), getattr(sys.modules.get("torch"), "_C", None)
    if getattr(binary, "_GLIBCXX_USE_CXX11_ABI", _abi(folder)) != _abi(folder):
        raise TetraceError(f"{folder}: built with an unknown C++ ABI, so that the observer would not fit")
    if not target.exists():
        raise TetraceError(f"{target}: not built; run `tetrace doctor` with this Python")
    try:
        library = ctypes.CDLL(str(target))
    except OSError as error:
        raise TetraceError(f"{target}: does not load ({error}); delete it and run `tetrace doctor`") from error
    library.tetrace_observer_start.argtypes = [ctypes.c_void_p]
    library.tetrace_observer_start.restype = None
    library.tetrace_observer_stop.argtypes = []
    library.tetrace_observer_stop.restype = None
    return library


def address(library: Any, name: str) -> int:
    """Where a function of the observer is; 0 where it was built without."""
    function = getattr(library, name, None)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def functions(capsule: object) -> int:
    """The address in the capsule of `tetrace._C.autograd_capsule()`."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    name = ctypes.pythonapi.PyCapsule_GetName
    name.argtypes, name.restype = [ctypes.py_object], ctypes.c_char_p
    return int(pointer(capsule, name(capsule)))


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise TetraceError(f"{sys.executable} has no torch; run tetrace with the Python of the training script")
    return Path(next(iter(spec.submodule_search_locations)))


def _target(torch: Path) -> Path:
    """Where the library for this torch, Python and source belongs."""
    found = re.search(r"^__version__ = ['\"]([^'\"]+)", (torch / "version.py").read_text(), re.MULTILINE)
    version = found[1] if found else "unknown"
    source = hashlib.sha256(SOURCE.read_bytes() + str(torch.resolve()).encode()).hexdigest()[:12]
    name = f"torch-{version}-abi{_abi(torch)}-{sysconfig.get_platform()}-{sys.implementation.cache_tag}-{source}"
    if not reads_tensors():
        name += "-methods"  # built anew once Python's headers are there
    return _cache() / name / "observer.so"


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "tetrace"


def _abi(torch: Path) -> int:
    """1 when torch was built with the C++11 ABI of libstdc++; wheels before 2.7 were not."""
    library = torch / "lib" / "libc10.so"
    return int(not library.exists() or _OLD_ABI not in library.read_bytes())


def _compiler() -> str:
    named = os.environ.get("CXX", "").split()[:1]
    found = next((path for name in (*named, "c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        raise TetraceError("no C++ compiler (c++, g++, clang++) is on PATH; install one (Debian: g++) or set CXX")
    return found


def reads_tensors() -> bool:
    """Whether Python's headers are there, so that an observer that is built now reads tensors."""
    return any((Path(folder) / "Python.h").exists() for folder in _python_headers())


def _python_headers() -> list[str]:
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude")))


def _reading_options() -> tuple[str, ...]:
    return ("-DTETRACE_READS_TENSORS", *(f"-I{folder}" for folder in _python_headers()))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes, which ends with this process whatever happens to it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(compiler: str, torch: Path, target: Path) -> None:
    """Compiles to a temporary name first, so that the library is there whole or not at all."""
    partial = target.with_suffix(f".{os.getpid()}.partial")
    command = [compiler, "-O2", "-w", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{torch / 'include'}"]
    if (
        sys.platform == "linux"
    ):  # some compilers link the C++ library in: it must not be mixed with the one that PyTorch loaded
        command.append("-Wl,--exclude-libs,ALL")
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={_abi(torch)}", str(SOURCE), f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    # Many machines have no headers of Python: the observer can do without, and tensors are then read by their methods.
    for reading, standard in itertools.product((_reading_options(), ()) if reads_tensors() else ((),), _STANDARDS):
        options = [*reading, f"-std={standard}", "-o", str(partial)]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        if done.returncode == 0:
            partial.replace(target)
            return
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
    raise TetraceError(f"{compiler} cannot build the autograd observer: {lines[0][:300]}; set CXX to another compiler")
