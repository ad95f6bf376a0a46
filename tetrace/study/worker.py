"""`python -m tetrace.study.worker`: the process of one configuration.

It does what it is told through the Unix socket that TETRACE_STUDY_SOCKET names, a JSON value a line, and answers each
request with one line: `{"reply": ...}` or `{"failed": ...}`. Its standard streams are the workload's. `{"stage": ...}`
lines in between say how far it is. It runs under `tetrace record` as well.

This is the one file of the study that imports torch, since it runs in the process of the workload, like a script.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import faulthandler
import importlib.util
import json
import os
import platform
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tetrace
from tetrace import loaded
from tetrace.study import processors
from tetrace.study.losses import UnreadLosses
from tetrace.study.own_code import files_of
from tetrace.study.stopwatch import CudaStopwatch, HostStopwatch, Stopwatch
from tetrace.study.workload import Mark, Workload

SOCKET = "TETRACE_STUDY_SOCKET"
# Steps that are run before each round and not measured: another process had the GPU, its caches and its clocks.
LEAD_IN = 2
# All configurations begin with the same random numbers.
_SEED = 1234
_MOST_MESSAGE = 2000
# How libraries say that an allocation failed, beyond torch's own type; and that the GPU takes one process at a time.
_NO_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "ERROR_OUT_OF_MEMORY", "busy or unavailable")
_PR_SET_PDEATHSIG = 1


class Worker:
    """One configuration, from its import to its last round."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pid = os.getpid()
        self._stage = "import"
        self._torch: Any = None
        self._workload: Workload
        self._watch: Stopwatch
        self._losses: UnreadLosses
        self._cuda = False
        self._folder = Path()

    def serve(self) -> int:
        """Do what is asked until told to leave, or nobody asks any more. Returns the exit code."""
        self._say({"hello": os.getpid()})
        with self._connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                request = json.loads(line)
                if request["do"] == "leave":
                    return 0
                try:
                    reply = getattr(self, f"_{request.pop('do')}")(**request)
                except BaseException as error:  # whatever a workload raises ends this configuration, and is told
                    if self._is_fork:
                        raise
                    traceback.print_exc()
                    self._say({"failed": self._failure(error)})
                    return 1
                if self._is_fork:
                    return 0
                self._say({"reply": reply})
        return 0

    @property
    def _is_fork(self) -> bool:
        """Whether this is a process that the workload forked: it has the connection, and speaks for nobody."""
        return os.getpid() != self._pid

    def _say(self, message: dict[str, Any]) -> None:
        if self._is_fork:
            return
        # A runner that has gone is noticed at the next request.
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _enter(self, stage: str) -> None:
        self._stage = stage
        self._say({"stage": stage})

    def _failure(self, error: BaseException) -> dict[str, Any]:
        message = str(error)[:_MOST_MESSAGE]
        kind = type(error)
        no_memory = kind.__name__ == "OutOfMemoryError" or any(words in message for words in _NO_MEMORY)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return {
            "stage": self._stage,
            "type": name,
            "message": message,
            "out_of_memory": no_memory,
            "code": files_of(self._folder),
        }

    def _build(self, folder: str, options: dict[str, Any], device: str) -> dict[str, Any]:
        self._enter("import")
        began = time.perf_counter_ns()
        import torch

        self._torch, self._folder, self._cuda = torch, Path(folder), device == "cuda"
        torch.manual_seed(_SEED)
        model = _imported(self._folder)
        imported = time.perf_counter_ns()
        self._enter("build")
        workload = model.build(**options)
        if not isinstance(workload, Workload):
            raise TypeError(f"build returned {type(workload).__name__}; it returns tetrace.study.Workload(...)")
        self._synchronize()
        built = time.perf_counter_ns()
        self._workload, self._losses = workload, UnreadLosses(torch)
        self._watch = CudaStopwatch(torch) if self._cuda else HostStopwatch()
        return {
            "import_ns": imported - began,
            "build_ns": built - imported,
            "tokens": int(workload.tokens),
            "flops": None if workload.flops is None else int(workload.flops),
            "parameters": _parameters(workload.model),
            "facts": {str(key): str(value) for key, value in workload.facts.items()},
            "versions": self._versions(),
            "bus_id": self._bus_id(),
        }

    def _first_step(self) -> dict[str, Any]:
        self._enter("first step")
        began = time.perf_counter_ns()
        self._run(1, self._watch.mark)
        ended = time.perf_counter_ns()
        return {"first_step_ns": ended - began, "memory": self._memory()}

    def _warm_up(self, steps: int, cpus: list[int]) -> dict[str, Any]:
        self._enter("warm-up")
        # Now that autograd has its threads, and what is compiled is compiled.
        processors.stay_on(cpus)
        began = time.perf_counter_ns()
        self._run(steps, self._watch.mark)
        self._losses.warmed_up()
        ended = time.perf_counter_ns()
        self._watch.end()
        self._watch.read()
        facts = self._workload.facts
        return {
            "warmup_ns": ended - began,
            "losses": self._losses.read(),
            "facts": {str(key): str(value) for key, value in facts.items()},
            "memory": self._memory(),
            "code": files_of(self._folder),
        }

    def _round(self, steps: int, cpus: list[int]) -> dict[str, Any]:
        self._enter("measuring")
        processors.stay_on(cpus)
        self._run(LEAD_IN, _no_mark)
        if self._cuda:
            self._torch.cuda.reset_peak_memory_stats()
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        began = time.monotonic_ns()
        for _ in range(steps):
            self._watch.begin()
            self._step(self._watch.mark)
        self._watch.end()
        self._synchronize()
        ended = time.monotonic_ns()
        return {
            "at": at,
            "began_ns": began,
            "host_ns": ended - began,
            "steps": self._watch.read(),
            "losses": self._losses.read(),
            "memory": self._memory(),
        }

    def _record_first(self) -> dict[str, Any]:
        """The first step for `tetrace record`: it compiles, and loads kernels. Until its turn comes it is this step."""
        self._enter("first step")
        self._workload.step(_no_mark)
        self._synchronize()
        return {}

    def _record_warm_up(self, steps: int, cpus: list[int]) -> dict[str, Any]:
        """Steps that are not recorded, under `tetrace record`. Until its next turn comes it is the last one of them."""
        self._enter("warm-up")
        with processors.kept_on(cpus):
            self._run_unmeasured(steps)
        return {}

    def _record(self, steps: int, cpus: list[int]) -> dict[str, Any]:
        """The steps after the warm-up for `tetrace record`."""
        self._enter("recording")
        # What follows is the recorder's: it must not disturb the next one.
        with processors.kept_on(cpus):
            self._run_unmeasured(steps)
            tetrace.step()
        return {}

    def _run_unmeasured(self, steps: int) -> None:
        """Steps for `tetrace record`, without our events on the stream."""
        for _ in range(steps):
            tetrace.step()
            # The loss is not kept: a copy of it would be a kernel more than in a round.
            self._workload.step(_no_mark)
        self._synchronize()

    def _run(self, steps: int, mark: Mark) -> None:
        for _ in range(steps):
            self._step(mark)
        self._synchronize()

    def _step(self, mark: Mark) -> None:
        self._losses.keep(self._workload.step(mark))

    def _synchronize(self) -> None:
        if self._cuda:
            self._torch.cuda.synchronize()

    def _memory(self) -> dict[str, int]:
        """Bytes: peaks since the round began, and what the whole GPU has free."""
        if not self._cuda:
            return {}
        cuda = self._torch.cuda
        return {
            "allocated": cuda.max_memory_allocated(),
            "reserved": cuda.max_memory_reserved(),
            "free": cuda.mem_get_info()[0],
            # How often torch had to give cached memory back before it got some: that waits for the GPU.
            "retries": cuda.memory_stats().get("num_alloc_retries", 0),
        }

    def _bus_id(self) -> str:
        """`bus:device` of the GPU, as the driver writes them."""
        if not self._cuda:
            return ""
        properties = self._torch.cuda.get_device_properties(self._torch.cuda.current_device())
        if not hasattr(properties, "pci_bus_id"):
            return ""
        return f"{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}"

    def _versions(self) -> dict[str, str]:
        torch = self._torch
        cudnn = loaded.cudnn_version() if self._cuda else None
        found = {"python": platform.python_version(), "torch": torch.__version__}
        return (
            found | ({"cuda": torch.version.cuda} if torch.version.cuda else {}) | ({"cudnn": cudnn} if cudnn else {})
        )


def _no_mark(_phase: str) -> None:
    """A mark that nobody reads."""


def _imported(folder: Path) -> ModuleType:
    """The study's `model.py`, imported under the name `model`, with its folder first on the path."""
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    return module


def _parameters(model: Any) -> int | None:
    parameters = getattr(model, "parameters", None)
    return sum(each.numel() for each in parameters()) if callable(parameters) else None


@contextlib.contextmanager
def _connected() -> Iterator[socket.socket]:
    """The runner's socket. What the workload starts does not get its address."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ.pop(SOCKET))
        yield connection


def main() -> int:
    """Serve the runner that started this process. Returns the exit code."""
    if sys.platform == "linux":
        # A workload that hangs must not outlive a runner that was killed.
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The runner asks where a hanging configuration is before it ends it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    with _connected() as connection:
        return Worker(connection).serve()


if __name__ == "__main__":
    sys.exit(main())
