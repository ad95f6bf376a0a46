"""Imports torch and Transformer Engine in a process of its own, so that a broken one cannot break who asks.

`python -m tetrace.record.probe FILE` writes what it finds to FILE as JSON, again after each stage: when a stage kills
the process, FILE holds what was known before and, under `stage`, the one that did not come back. With `alone` as a
second argument it looks at CUPTI, and imports nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tetrace import loaded
from tetrace.record import libcupti

_PATIENCE_S = 180
_SAID = 400
# Libraries of which a process should have one: what is matched is the file name without its version
# and without the hash that auditwheel puts into it.
_LIBRARIES = re.compile(r"/(libcudnn|libcublasLt|libcupti|libnccl|libcudart|libnvrtc)(-[0-9a-f]+)?\.so[.\d]*$")
# CUptiResult: another tool subscribed already; CUPTI is not usable under a debugger; the driver refuses.
CUPTI_HELD, CUPTI_REFUSED = 39, 35


def facts() -> dict[str, Any]:
    """What each stage found, by its name, and under `errors` why others did not. Takes seconds."""
    alone, found = _child("alone"), _child()
    return {**alone, **found, "errors": {**alone["errors"], **found["errors"]}}


def _child(*arguments: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TETRACE_")}
    # Transformer Engine says why it refuses an attention backend only at this level.
    environment |= {"NVTE_DEBUG": "1", "NVTE_DEBUG_LEVEL": "2"}
    with tempfile.TemporaryDirectory(prefix="tetrace-doctor-") as folder:
        file = Path(folder) / "facts.json"
        command = [sys.executable, "-m", "tetrace.record.probe", str(file), *arguments]
        code, said = _ended(command, environment)
        found: dict[str, Any] = {"stage": "start", "errors": {}}
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
    if found["stage"] != "done":
        found["errors"][found["stage"]] = f"{_how(code)}: {said}" if said else _how(code)
    return found


def _ended(command: list[str], environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code, None after a time-out, and the last line that was said."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    lines = done.stderr.strip().splitlines()
    return done.returncode, lines[-1][:_SAID] if lines else ""


def _how(code: int | None) -> str:
    if code is None:
        return f"it did not end within {_PATIENCE_S} s"
    return f"killed by signal {-code}" if code < 0 else f"the process ended with exit code {code}"


def _cuda() -> dict[str, Any]:
    """What the CUDA driver answers, whatever torch was built for."""
    cuda = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_int()
    result = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    name = ctypes.c_char_p()
    if result:
        cuda.cuGetErrorName(result, ctypes.byref(name))
    return {"result": int(result), "name": (name.value or b"").decode(), "devices": count.value}


def _torch() -> dict[str, Any]:
    import torch as module

    torch: Any = module
    available = torch.cuda.is_available()
    found: dict[str, Any] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "available": available,
        "devices": [],
    }
    for i in range(torch.cuda.device_count() if available else 0):
        major, minor = torch.cuda.get_device_capability(i)
        found["devices"].append({"name": torch.cuda.get_device_name(i), "capability": f"{major}.{minor}"})
    if torch.version.cuda and not available:
        found["why"] = _why_unavailable(torch)
    return found


def _why_unavailable(torch: Any) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return _said(error)
    return ""


def _transformer_engine() -> dict[str, Any]:
    from tetrace.instrument import te_probe

    return te_probe.load()


def _recipes() -> list[dict[str, Any]]:
    from tetrace.instrument import te_probe

    return te_probe.recipes()


def _attention() -> list[dict[str, Any]]:
    from tetrace.instrument import te_probe

    return te_probe.attention()


def _libraries() -> dict[str, list[str]]:
    """Files mapped into this process, by library; two of one name are two copies of it."""
    found: dict[str, set[str]] = {}
    for path in loaded.mapped():
        if match := _LIBRARIES.search(path):
            found.setdefault(match[1], set()).add(os.path.realpath(path))
    return {name: sorted(paths) for name, paths in found.items()}


def _cudnn() -> int | None:
    """Version of the cuDNN that is loaded by now. Asking torch would load its own before Transformer Engine's import,
    which breaks where that brings another."""
    version = loaded.cudnn_version()
    return int(version) if version else None


def _cupti() -> dict[str, Any]:
    """Whether CUPTI lets this process subscribe: one tool at a time may (before 13.3)."""
    # The loader finds one in the folders of LD_LIBRARY_PATH, too.
    path = next(iter(libcupti.candidates([sys.executable], os.environ)), "libcupti.so")
    library = ctypes.CDLL(path)
    version, subscriber = ctypes.c_uint32(), ctypes.c_void_p()
    library.cuptiGetVersion(ctypes.byref(version))
    result, holder = _subscribe(library, subscriber)
    if result == 0:
        library.cuptiUnsubscribe(subscriber)
    return {"version": version.value, "result": result, "path": path, "holder": holder}


class _Subscription(ctypes.Structure):
    """CUpti_SubscriberParams as CUDA 13.0 has it; later ones have more fields, and go by its size."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("holder", ctypes.c_void_p),
        ("holder_bytes", ctypes.c_size_t),
    )


def _subscribe(library: Any, subscriber: ctypes.c_void_p) -> tuple[int, str]:
    """What CUPTI returns, and the name of who holds it, which it says from CUDA 13 on."""
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)(lambda *_: None)
    if not hasattr(library, "cuptiSubscribe_v2"):
        return int(library.cuptiSubscribe(ctypes.byref(subscriber), callback, None)), ""
    holder = ctypes.create_string_buffer(256)
    asked = _Subscription(ctypes.sizeof(_Subscription), b"tetrace doctor", ctypes.addressof(holder), len(holder))
    result = int(library.cuptiSubscribe_v2(ctypes.byref(subscriber), callback, None, ctypes.byref(asked)))
    return result, holder.value.decode(errors="replace") if result else ""


_STAGES: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("cuda", _cuda),
    ("torch", _torch),
    ("transformer_engine", _transformer_engine),
    ("libraries", _libraries),
    ("cudnn", _cudnn),
    ("recipes", _recipes),
    ("attention", _attention),
)
# In a process without torch, whose own profiler may subscribe.
_ALONE: tuple[tuple[str, Callable[[], Any]], ...] = (("cupti", _cupti),)


def main(file: Path, stages: tuple[tuple[str, Callable[[], Any]], ...]) -> None:
    """Run `stages`, and write after each what is known by then."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "errors": {}}
    for name, stage in stages:
        _write(file, {**found, "stage": name})
        try:
            found[name] = stage()
        except (Exception, SystemExit) as error:
            found["errors"][name] = _said(error)
    _write(file, {**found, "stage": "done"})


def _write(file: Path, found: Mapping[str, Any]) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found), encoding="utf-8")
    unfinished.replace(file)


def _said(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_SAID]


if __name__ == "__main__":
    main(Path(sys.argv[1]), _ALONE if "alone" in sys.argv[2:] else _STAGES)
    # What torch and CUDA do at exit can hang or crash, and would say nothing of a recording.
    os._exit(0)
