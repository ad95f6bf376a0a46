"""What CUPTI alone costs a step, by kind of record: no recorder of anybody's, buffers are handed out and dropped.

    python benchmarks/cupti.py [--repeat 4]

The workload is `small` of training.py, bound by the host. In one process each kind is switched on, off, and, with
cuptiFinalize, CUPTI is thrown out again; ratios are of the steps with it, and after it was switched off, to those just
before. It is the floor of what `tetrace record --collector cupti`, Nsight Systems and the PyTorch profiler can cost. Needs
a GPU, Transformer Engine, and a C compiler for the functions that CUPTI calls.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import training

BUFFERS = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
void give(uint8_t** buffer, size_t* bytes, size_t* records) { *buffer = aligned_alloc(8, *bytes = 1 << 20); *records = 0; }
void called(void* user, int domain, unsigned call, const void* data) {}
void take(void* context, uint32_t stream, uint8_t* buffer, size_t bytes, size_t used) { free(buffer); }
"""
# Numbers of CUpti_ActivityKind.
KERNELS, MEMCPY, MEMSET, SYNCHRONIZATION, OVERHEAD = 10, 1, 2, 38, 17
DRIVER_DOMAIN, RUNTIME_DOMAIN = 1, 2
LAUNCHING = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaGraphLaunch")
WAITS = ("cudaStreamWaitEvent", "cuStreamWaitEvent")
COPIES = (KERNELS, MEMCPY, MEMSET)
RESOURCE_DOMAIN, NODES = 3, (13, 20)  # callbacks for nodes of graphs that are created and cloned
# Kinds of records, whether launching calls are recorded, and for what there is a subscriber.
ROWS: tuple[tuple[str, tuple[int, ...], bool, str], ...] = (
    ("none, a subscriber for nodes of graphs", (), False, "nodes"),
    ("kernels", (KERNELS,), False, ""),
    ("kernels, copies", COPIES, False, ""),
    ("kernels, copies, launching calls", COPIES, True, ""),
    ("kernels, copies, overhead, launching calls", (*COPIES, OVERHEAD), True, ""),
    ("these, a subscriber for nodes of graphs", (*COPIES, OVERHEAD), True, "nodes"),
    ("these, and for streams that are told to wait", (*COPIES, OVERHEAD), True, "waits"),
    ("kernels, copies, synchronization", (*COPIES, SYNCHRONIZATION), False, ""),
    ("all of these records, a subscriber for nodes", (*COPIES, SYNCHRONIZATION, OVERHEAD), True, "nodes"),
)


class Cupti:
    """The libcupti that torch has loaded into this process."""

    def __init__(self, buffers: ctypes.CDLL) -> None:
        lines = Path("/proc/self/maps").read_text().splitlines()
        found = next((line.split(maxsplit=5)[5] for line in lines if "libcupti.so" in line), None)
        if found is None:
            sys.exit("no libcupti is loaded; this needs a build of torch for CUDA")
        self.library, self.buffers = ctypes.CDLL(found), buffers
        self.calls = [number for number in range(1, 900) if self._name(RUNTIME_DOMAIN, number) in LAUNCHING]
        domains = (DRIVER_DOMAIN, RUNTIME_DOMAIN)
        self.waits = [(one, call) for one in domains for call in range(1, 900) if self._name(one, call) in WAITS]
        self.subscriber = ctypes.c_void_p()

    def _name(self, domain: int, number: int) -> str:
        name = ctypes.c_char_p()
        self.library.cuptiGetCallbackName(domain, number, ctypes.byref(name))
        return (name.value or b"").decode().partition("_v")[0].removesuffix("_ptsz")

    def ask(self, function: str, *arguments: object) -> None:
        result = getattr(self.library, function)(*arguments)
        if result:
            sys.exit(f"{function}{arguments} failed: CUPTI says {result}; is another profiler attached?")

    def attach(self, kinds: tuple[int, ...], calls: bool, subscriber: str) -> None:
        self.ask("cuptiActivityRegisterCallbacks", self.buffers.give, self.buffers.take)
        if subscriber:
            self.ask("cuptiSubscribe", ctypes.byref(self.subscriber), self.buffers.called, None)
        self.switch(kinds, calls, subscriber, True)

    def switch(self, kinds: tuple[int, ...], calls: bool, subscriber: str, on: bool) -> None:
        nodes = [(RESOURCE_DOMAIN, one) for one in NODES] if subscriber else []
        for domain, call in (*nodes, *(self.waits if subscriber == "waits" else ())):
            self.ask("cuptiEnableCallback", int(on), self.subscriber, domain, call)
        for call in self.calls if calls else ():
            self.ask("cuptiActivityEnableRuntimeApi", call, int(on))
        for kind in kinds:
            self.ask("cuptiActivityEnable" if on else "cuptiActivityDisable", kind)

    def detach(self) -> None:
        if self.subscriber:
            self.ask("cuptiUnsubscribe", self.subscriber)
            self.subscriber = ctypes.c_void_p()
        self.ask("cuptiActivityFlushAll", 1)
        self.ask("cuptiFinalize")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=4)
    repeat = parser.parse_args().repeat
    _, step = training.training_step(*training.SIZES["small"])
    training.run_block(step, 20)
    with tempfile.TemporaryDirectory() as folder:
        cupti = Cupti(built(Path(folder)))
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name, *_ in ROWS}
    stopped = False
    try:
        for _ in range(repeat):
            for name, *records in ROWS:
                times[name].append(measure(step, cupti, *records))
    except KeyboardInterrupt:
        stopped = True  # CUPTI may be attached still
        sys.stderr.write("stopped: what was measured so far\n")
    sys.stdout.write(
        "| CUPTI records | ms a step | switched off | without | ratio | from | to | ratio, switched off |\n"
    )
    sys.stdout.write("|---|---|---|---|---|---|---|---|\n")
    for name, values in times.items():
        if values:
            sys.stdout.write(row(name, values))
    if not stopped:
        compare_waits(cupti)


def compare_waits(cupti: Cupti) -> None:
    """One line: nanoseconds of a call in which a stream is told to wait, without and with callbacks."""
    # `small` has one stream, which waits for none: what a callback costs is seen where it is called.
    without, called = waits(), []
    for subscriber in ("nodes", "waits"):
        cupti.attach((), False, subscriber)
        called.append(waits())
        cupti.detach()
    sys.stdout.write(
        f"\na stream is told to wait: {without:.0f} ns, {called[0]:.0f} with a subscriber for nodes of graphs, "
    )
    sys.stdout.write(f"{called[1]:.0f} with callbacks of such calls\n")


def built(folder: Path) -> ctypes.CDLL:
    source, library = folder / "buffers.c", folder / "buffers.so"
    source.write_text(BUFFERS)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))


def measure(step, cupti: Cupti, kinds: tuple[int, ...], calls: bool, subscriber: str) -> tuple[float, float, float]:
    """Milliseconds of a step without, with, and after it was switched off; two steps after each change are not counted."""
    training.run_block(step, 2)
    without = training.run_block(step, 15)[0]
    cupti.attach(kinds, calls, subscriber)
    training.run_block(step, 2)
    recorded = training.run_block(step, 15)[0]
    cupti.switch(kinds, calls, subscriber, False)
    training.run_block(step, 2)
    off = training.run_block(step, 15)[0]
    cupti.detach()
    return without, recorded, off


def waits(calls: int = 20_000) -> float:
    """Nanoseconds of a call in which a stream is told to wait for an event that is over."""
    stream, event = torch.cuda.Stream(), torch.cuda.Event()
    event.record()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        stream.wait_event(event)
    taken = time.perf_counter() - began
    torch.cuda.synchronize()
    return 1e9 * taken / calls


def row(name: str, values: list[tuple[float, ...]]) -> str:
    ratios = sorted(recorded / without for without, recorded, _ in values)
    without, recorded, off = (statistics.median(times) for times in zip(*values, strict=True))
    middle, left = statistics.median(ratios), statistics.median(off / without for without, _, off in values)
    figures = (
        f"{recorded:.2f} | {off:.2f} | {without:.2f} | {middle:.3f} | {ratios[0]:.3f} | {ratios[-1]:.3f} | {left:.3f}"
    )
    return f"| {name} | {figures} |\n"


if __name__ == "__main__":
    main()
