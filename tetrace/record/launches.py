"""Measures what it costs to launch a kernel that does nothing, by the driver's own calls on a stream of its own.

Three figures that are not to be mixed: what the host spends in the call, how long after it the GPU starts, and how close
after one another the GPU itself can run kernels that are already queued.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from typing import Any

from tetrace.errors import UsageError

# Writes its second argument to where its first points. PTX of this age and target runs on every GPU since Volta.
_PTX = b"""
.version 6.0
.target sm_70
.address_size 64
.visible .entry mark(.param .u64 place, .param .u32 number)
{
    .reg .b64 %rd<3>;
    .reg .b32 %r<2>;
    ld.param.u64 %rd1, [place];
    ld.param.u32 %r1, [number];
    cvta.to.global.u64 %rd2, %rd1;
    st.volatile.global.u32 [%rd2], %r1;
    ret;
}
.visible .entry nothing()
{
    ret;
}
"""
_WARM, _REPEATS = 200, 1000
# Fewer than the 1024 launches that a queue takes before the host has to wait.
_IN_A_ROW, _ROWS = 500, 15
# Cycles for which the stream is held while launches are queued behind: 10 ms at 2 GHz, queueing takes less than 3.
_HOLD_CYCLES = 20_000_000
_NON_BLOCKING, _MAPPED = 1, 2
_PATIENCE_NS = 1_000_000_000


def measure(torch: Any) -> dict[str, int | None]:
    """Medians in integer nanoseconds, on the current device of `torch`.

    `launch_call_ns`: host time within `cuLaunchKernel` on an idle stream, with the half microsecond of Python's ctypes.
    `launch_latency_ns`: from the start of that call to when the host sees a word that the kernel writes into its pinned
    memory: the start of the kernel, and the way of one word back over the bus, about a microsecond.
    `kernel_interval_ns`: device time from kernel to kernel among 500 empty ones queued on one stream: no sequence of
    dependent kernels is faster, without a CUDA graph.
    `torch_operator_ns`: host time of `x.add_(1)` with one element, queued without waiting: what torch's eager mode asks of
    the host for one kernel.
    All None, with `launch_reason`, where the driver refuses.
    """
    try:
        with _Launcher() as launcher:
            figures: dict[str, Any] = {**launcher.latency(), "kernel_interval_ns": launcher.interval(torch)}
    except (OSError, UsageError) as error:
        names = ("launch_call_ns", "launch_latency_ns", "kernel_interval_ns")
        figures = {**dict.fromkeys(names), "launch_reason": str(error)}
    return {**figures, "torch_operator_ns": _operator(torch)}


class _Launcher:
    """An empty kernel and one that writes a word, on a stream of their own in the current context."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._stream, self._module = ctypes.c_void_p(), ctypes.c_void_p()
        self._host, self._device = ctypes.c_void_p(), ctypes.c_void_p()

    def __enter__(self) -> _Launcher:
        self._do("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))
        self._do("cuModuleLoadData", ctypes.byref(self._module), _PTX)
        self._do("cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(64), ctypes.c_uint(_MAPPED))
        self._do("cuMemHostGetDevicePointer_v2", ctypes.byref(self._device), self._host, ctypes.c_uint(0))
        self._mark, self._nothing = (self._function(name) for name in (b"mark", b"nothing"))
        return self

    def __exit__(self, *_: object) -> None:
        # What was not made is null, which these calls refuse: nothing more to do then.
        self._cuda.cuStreamSynchronize(self._stream)
        self._cuda.cuMemFreeHost(self._host)
        self._cuda.cuModuleUnload(self._module)
        self._cuda.cuStreamDestroy_v2(self._stream)

    def latency(self) -> dict[str, int]:
        """`launch_call_ns` and `launch_latency_ns`."""
        word = ctypes.c_uint32.from_address(self._host.value or 0)
        word.value = 0
        number = ctypes.c_uint32()
        launch = self._prepared(self._mark, self._device, number)
        calls, latencies = [], []
        for i in range(1, _WARM + _REPEATS + 1):
            number.value = i
            begin = time.perf_counter_ns()
            result = launch()
            returned = time.perf_counter_ns()
            self._check("cuLaunchKernel", result)
            # Looked at from here, and not by a synchronizing call, which has a cost of its own.
            while word.value != i and time.perf_counter_ns() - begin < _PATIENCE_NS:
                pass
            seen = time.perf_counter_ns()
            self._do("cuStreamSynchronize", self._stream)
            calls.append(returned - begin)
            latencies.append(seen - begin)
        return {
            "launch_call_ns": round(statistics.median(calls[_WARM:])),
            "launch_latency_ns": round(statistics.median(latencies[_WARM:])),
        }

    def interval(self, torch: Any) -> int | None:
        """`kernel_interval_ns`; None where the host queued too slowly for the GPU to find the next kernel there."""
        launch = self._prepared(self._nothing)
        taken = []
        with torch.cuda.stream(torch.cuda.ExternalStream(self._stream.value)):
            for _ in range(_ROWS):
                torch.cuda._sleep(_HOLD_CYCLES)
                taken.append(_timed(torch, launch))
        known = [ns for ns in taken if ns is not None]
        return round(statistics.median(known)) if known else None

    def _prepared(self, function: ctypes.c_void_p, *arguments: Any) -> Any:
        """A function that launches one thread of `function` and returns the driver's result."""
        places = (ctypes.c_void_p * max(len(arguments), 1))(*(ctypes.addressof(a) for a in arguments))
        one, none = ctypes.c_uint(1), ctypes.c_uint(0)
        call, stream, nowhere = self._cuda.cuLaunchKernel, self._stream, ctypes.c_void_p()
        return lambda: call(function, one, one, one, one, one, one, none, stream, places, nowhere)

    def _function(self, name: bytes) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._do("cuModuleGetFunction", ctypes.byref(function), self._module, name)
        return function

    def _do(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._cuda, name)(*arguments))

    def _check(self, name: str, result: int) -> None:
        if result:
            said = ctypes.c_char_p()
            self._cuda.cuGetErrorName(result, ctypes.byref(said))
            known = (said.value or b"").decode() or str(result)
            raise UsageError(f"launches could not be measured ({name}: {known}); try nvidia-smi")


def _timed(torch: Any, launch: Any) -> float | None:
    """Nanoseconds of device time for each of many launches, all queued before the first runs; None where they were not."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_IN_A_ROW):
        launch()
    end.record()
    all_queued = not begin.query()
    end.synchronize()
    if not all_queued:
        return None
    return float(begin.elapsed_time(end)) * 1e6 / _IN_A_ROW


def _operator(torch: Any) -> int:
    x = torch.zeros(1, device="cuda")
    taken = []
    for _ in range(_ROWS):
        # A full queue would make the host wait.
        torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        for _ in range(_IN_A_ROW):
            x.add_(1)
        taken.append((time.perf_counter_ns() - begin) / _IN_A_ROW)
    return round(statistics.median(taken))
