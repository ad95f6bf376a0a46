"""What CUPTI alone costs a step, by kind of record: no recorder of anybody's, buffers are handed out and dropped.

    python benchmarks/cupti.py [--repeat 4]

The workload is `small` of training.py, bound by the host. In one process each kind is switched on and, with
cuptiFinalize, CUPTI is thrown out again; ratios are of the steps with it to those just before. It is the floor of what
`tetrace record --collector cupti`, Nsight Systems and the PyTorch profiler can cost. Needs a GPU, Transformer Engine, and
a C compiler for the two functions that CUPTI asks for buffers.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

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
# Kinds of records, whether launching calls are recorded, and whether a stream that is told to wait calls back.
ROWS: tuple[tuple[str, tuple[int, ...], bool, bool], ...] = (
    ("kernels", (KERNELS,), False, False),
    ("kernels, copies", (KERNELS, MEMCPY, MEMSET), False, False),
    ("kernels, copies, launching calls", (KERNELS, MEMCPY, MEMSET), True, False),
    ("kernels, copies, overhead, launching calls", (KERNELS, MEMCPY, MEMSET, OVERHEAD), True, False),
    ("and callbacks of streams that are told to wait", (KERNELS, MEMCPY, MEMSET, OVERHEAD), True, True),
    ("kernels, copies, synchronization", (KERNELS, MEMCPY, MEMSET, SYNCHRONIZATION), False, False),
    ("all of these records", (KERNELS, MEMCPY, MEMSET, SYNCHRONIZATION, OVERHEAD), True, False),
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

    def attach(self, kinds: tuple[int, ...], calls: bool, waits: bool) -> None:
        self.ask("cuptiActivityRegisterCallbacks", self.buffers.give, self.buffers.take)
        if waits:
            self.ask("cuptiSubscribe", ctypes.byref(self.subscriber), self.buffers.called, None)
            for domain, call in self.waits:
                self.ask("cuptiEnableCallback", 1, self.subscriber, domain, call)
        for call in self.calls if calls else ():
            self.ask("cuptiActivityEnableRuntimeApi", call, 1)
        for kind in kinds:
            self.ask("cuptiActivityEnable", kind)

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
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in ROWS}
    for _ in range(repeat):
        for name, *records in ROWS:
            pairs[name].append(measure(step, cupti, *records))
    sys.stdout.write("| CUPTI records | ms a step | without | ratio | from | to |\n|---|---|---|---|---|---|\n")
    for name, values in pairs.items():
        sys.stdout.write(row(name, values))


def built(folder: Path) -> ctypes.CDLL:
    source, library = folder / "buffers.c", folder / "buffers.so"
    source.write_text(BUFFERS)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))


def measure(step, cupti: Cupti, kinds: tuple[int, ...], calls: bool, waits: bool) -> tuple[float, float]:
    """Milliseconds of a step without and with it; two steps after each change are not counted."""
    training.run_block(step, 2)
    without = training.run_block(step, 15)
    cupti.attach(kinds, calls, waits)
    training.run_block(step, 2)
    recorded = training.run_block(step, 15)
    cupti.detach()
    return without, recorded


def row(name: str, values: list[tuple[float, float]]) -> str:
    ratios = sorted(after / before for before, after in values)
    before, after = (statistics.median(times) for times in zip(*values, strict=True))
    middle = statistics.median(ratios)
    return f"| {name} | {after:.2f} | {before:.2f} | {middle:.3f} | {ratios[0]:.3f} | {ratios[-1]:.3f} |\n"


if __name__ == "__main__":
    main()
