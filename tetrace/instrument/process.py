"""What a recording keeps about one Python process: process.json, and exit.json when it ends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any, cast

from tetrace import _C, loaded
from tetrace.instrument import masking

# Programs that start the training processes, or work for them, and never train themselves.
_LAUNCHERS = {"torchrun", "accelerate", "deepspeed", "accelerate-launch"}
_LAUNCHER_MODULES = ("torch.distributed.", "accelerate.commands.", "deepspeed.launcher.", "torch._inductor.")
_LAUNCHER_FILES = (
    *("torch/distributed/run.py", "torch/distributed/launch.py", "torch/_inductor/compile_worker/__main__.py"),
    *("deepspeed/launcher/launch.py", "deepspeed/launcher/runner.py", "accelerate/commands/launch.py"),
)

_folder: Path | None = None
_pid = 0
_facts: dict[str, Any] = {}


def is_launcher() -> bool:
    """Whether this Python runs torchrun, a worker of the compiler or the like, by its command line."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return f"{next(words, '')}.".startswith(_LAUNCHER_MODULES)
        if not word.startswith("-"):
            path = Path(word)
            return path.name in _LAUNCHERS or path.as_posix().endswith(_LAUNCHER_FILES)
        if word in ("-X", "-W"):
            next(words, None)
    return False


def is_child() -> bool:
    """Whether multiprocessing started this Python: it may train, or only load data."""
    return "--multiprocessing-fork" in sys.orig_argv or "from multiprocessing" in " ".join(sys.orig_argv[:8])


def open(folder: Path) -> Path:  # noqa: A001 - read as process.open
    """Creates and returns the folder of this process' program in the recording at `folder`, with its process.json."""
    global _folder, _pid
    _pid = os.getpid()
    folder.mkdir(parents=True, exist_ok=True)
    _folder = Path(_C.process_folder(os.fspath(folder)))
    _facts.clear()
    _facts.update(_at_start())
    _write("process.json", _facts)
    return _folder


def folder() -> Path | None:
    """This process' folder; None before `open`, after `close`, and in a forked child, to which it does not belong."""
    return _folder if _pid == os.getpid() else None


def close() -> None:
    """Forgets the folder: what happens later belongs to no recording."""
    global _folder
    _folder = None


def note(**facts: Any) -> None:
    """Adds facts to process.json."""
    if any(_facts.get(name, _facts) != value for name, value in facts.items()):
        _facts.update(facts)
        _write("process.json", _facts)


def notice(text: str) -> None:
    """Adds a sentence for the reader of the report, once, without what nobody else should read."""
    text = masking.plain(text)
    notices = _facts.setdefault("notices", [])
    if text not in notices:
        notices.append(text)
        _write("process.json", _facts)


def retract(text: str) -> None:
    """Takes back a notice that no longer holds."""
    notices = _facts.get("notices", [])
    if masking.plain(text) in notices:
        notices.remove(masking.plain(text))
        _write("process.json", _facts)


def say(text: str) -> None:
    """A line on standard error, if there is one: the script's stdout is its own."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"tetrace: {text}", file=sys.stderr, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """A notice that is printed as well: something that the user asked for will be missing."""
    if masking.plain(text) not in _facts.get("notices", ()):
        say(text)
    notice(text)


@contextlib.contextmanager
def guarded(what: str) -> Any:
    """Turns an exception of tetrace's own into a warning: nothing may raise into the user's script."""
    try:
        yield
    except Exception as error:
        warn(f"{what} failed and is left out ({type(error).__name__}: {str(error)[:200]})")


def write(name: str, value: object) -> None:
    """Writes a JSON file of this process whole: a reader sees the old one or the new one."""
    _write(name, value)


def _write(name: str, value: object) -> None:
    target = folder()
    if target is None:
        return
    with contextlib.suppress(OSError):
        partial = target / f".{name}.partial"
        partial.write_text(json.dumps(value, indent=1, default=str))
        partial.replace(target / name)


def _at_start() -> dict[str, Any]:
    number = {name: os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    ranks = {name.lower(): int(text) if text.isdecimal() else None for name, text in number.items()}
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        **ranks,
        "argv": masking.words(sys.argv),
        "started_ns": time.time_ns(),
        "versions": _versions(),
        "gpu": None,
        "environment": masking.variables(os.environ),
        "autograd": "off",
        "notices": [],
    }


def _versions() -> dict[str, str | None]:
    """Versions that are known without touching CUDA."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformer_engine": _installed("transformer_engine"),
        "cuda": torch.version.cuda,
        "cudnn": None,
        "nccl": None,
        "driver": _driver(),
    }


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    try:
        found = re.search(r"Module\s+([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None


def note_device() -> None:
    """Adds what only a process that uses CUDA knows. Does nothing where CUDA is not initialized."""
    import torch

    cuda: Any = torch.cuda
    if not cuda.is_initialized() or _facts.get("gpu") or folder() is None:
        return
    device = cuda.current_device()
    about = cuda.get_device_properties(device)
    gpu = {
        "name": about.name,
        "device": device,
        "memory_bytes": about.total_memory,
        "compute_capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
    }
    note(gpu=gpu)


def _note_libraries() -> None:
    """Adds the cuDNN and NCCL that are loaded: asked at the end, so that asking loads nothing early."""
    import torch

    cuda = cast(Any, torch.cuda)
    folders = loaded.folders("libcudnn")
    versions = dict(_facts["versions"])
    if folders:
        versions["cudnn"] = loaded.cudnn_version()
    if len(folders) > 1:
        # The end of a folder tells which; its beginning may tell who.
        ends = sorted("/".join(Path(folder).parts[-2:]) for folder in folders)
        notice(f"{len(folders)} copies of cuDNN are loaded, from {' and '.join(ends)}")
    if cuda.is_initialized() and torch.distributed.is_available() and loaded.folders("libnccl"):
        versions["nccl"] = ".".join(map(str, cuda.nccl.version()))
    note(versions=versions)


def finish(reason: str, step: int, **facts: Any) -> None:
    """Writes exit.json: `reason` is end, exception or os._exit."""
    if folder() is None or (folder() / "exit.json").exists():  # type: ignore[operator]
        return
    with guarded("reading versions"):
        note_device()
        _note_libraries()
    _write("exit.json", {"reason": reason, "step": step, **facts})
