# ruff: noqa: T201
"""How fast tensors are inspected, against the fastest plain read and a copy of the same memory in the same run.

`python benchmarks/fp8.py` on a machine with an NVIDIA GPU and nvcc, and tetrace built with its kernels. Cases take turns;
medians. Bandwidth is that of reading the tensor once. Times of small tensors are of launches that wait in the stream's
queue, so that the host's share is not in them. `--once 1024` launches each kernel once on so many MiB and prints nothing,
for ncu to count what it does.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tetrace import _C

DEVICE = "cuda:0"
FLOOR_SOURCE = Path(__file__).with_name("fp8_floor.cu")
HISTOGRAM = 1
BF16, E4M3 = 0, 1
# Name: (format, flags).
TIERS = {
    "moments": (0, 0),
    "format": (E4M3, 0),
    "moments, histogram": (0, HISTOGRAM),
    "format, histogram": (E4M3, HISTOGRAM),
}
Case = Callable[[], None]


class Ring:
    """Observes tensors, and takes what came of it."""

    def __init__(self, module=_C) -> None:
        self.module = module
        module.fp8_open(0, 4096, True)

    def observe(self, tensors: list[tuple[int, ...]], tier: str) -> None:
        """One call."""
        number_format, flags = TIERS[tier]
        stream = torch.cuda.current_stream().cuda_stream
        assert self.module.fp8_observe(0, stream, tensors, BF16, 0, number_format, 0, flags) >= 0

    def clear(self) -> None:
        """Makes room."""
        self.module.fp8_end_step(0)
        self.module.fp8_wait(0)
        self.module.fp8_take(0)

    def close(self) -> None:
        """Gives the ring back."""
        self.module.fp8_close(0)


def timed(case: Case, repeats: int) -> float:
    """Seconds of one of `repeats` runs that follow each other in the queue, behind a kernel that lets it fill."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(2e5 + 1e5 * repeats))  # a launch of 64 tensors takes the host some 25 µs
    begin.record()
    for _ in range(repeats):
        case()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def interleaved(cases: dict[str, Case], rounds: int, repeats: int, between: Case) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            found = timed(case, repeats)
            between()
            if turn:  # the first warms up
                seconds[name].append(found)
    return {name: statistics.median(found) for name, found in seconds.items()}


def floor_cases(library: ctypes.CDLL, tensor: torch.Tensor) -> dict[str, Case]:
    """Plain reads, of several shapes of grid: the best is the floor."""
    seen = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    number = torch.cuda.get_device_properties(0).multi_processor_count

    def case(loads: int, blocks: int, threads: int) -> Case:
        stream = torch.cuda.current_stream().cuda_stream
        arguments = (
            *(ctypes.c_void_p(tensor.data_ptr()), ctypes.c_ulonglong(tensor.nbytes), loads, blocks * number, threads),
            *(ctypes.c_void_p(seen.data_ptr()), ctypes.c_void_p(stream)),
        )
        return lambda: library.launch_read(*arguments)

    shapes = [(loads, blocks, threads) for loads in (2, 4, 8) for blocks in (2, 4, 8) for threads in (256, 512)]
    return {f"read {shape}": case(*shape) for shape in shapes if shape[1] * shape[2] <= 2048}


def naive(tensor: torch.Tensor, scale: torch.Tensor) -> Case:
    """The numbers of the tier `format` as one writes them in torch."""

    def case() -> None:
        finite = tensor.isfinite()
        values = torch.where(finite, tensor.float(), 0)
        magnitudes = values.abs()
        products = magnitudes * scale
        quantized = products.clamp(max=448).to(torch.float8_e4m3fn).float()
        magnitudes.amax(), values.sum(dtype=torch.float64), values.square().sum(dtype=torch.float64)
        (tensor == 0).sum(), tensor.isnan().sum(), tensor.isinf().sum()
        torch.where(magnitudes > 0, magnitudes, torch.inf).amin()
        (products > 448).sum(), ((magnitudes > 0) & (products <= 2.0**-10)).sum()
        ((quantized > 0) & (quantized < 2.0**-6)).sum()
        ((products - quantized) / scale).square().sum(dtype=torch.float64)

    return case


def large(ring: Ring, library: ctypes.CDLL | None, mebibytes: int, rounds: int) -> dict[str, float]:
    """Seconds of every case on a bf16 tensor of this size."""
    tensor = torch.randn(mebibytes << 19, device=DEVICE, dtype=torch.bfloat16)
    other, scale = torch.empty_like(tensor), torch.tensor([98.0], device=DEVICE)
    one = [(tensor.data_ptr(), 1, tensor.numel(), tensor.numel(), 0, scale.data_ptr(), 0)]
    cases: dict[str, Case] = {tier: lambda tier=tier: ring.observe(one, tier) for tier in TIERS}
    cases |= {"copy": lambda: other.copy_(tensor), "torch.amax": lambda: tensor.amax()}
    if library is not None:
        cases |= floor_cases(library, tensor)
    found = interleaved(cases, rounds, 10, ring.clear)
    found["naive"] = interleaved({"naive": naive(tensor, scale)}, 2, 1, ring.clear)["naive"]
    reads = {name: seconds for name, seconds in found.items() if name.startswith("read ")}
    if reads:
        best = min(reads, key=reads.__getitem__)
        found = {name: seconds for name, seconds in found.items() if name not in reads} | {"floor": reads[best]}
        print(f"{mebibytes} MiB: the best plain read is {best} (loads, blocks a multiprocessor, threads)")
    return found


def small(ring: Ring, rounds: int) -> dict[str, float]:
    """Seconds of one tensor of 1 MiB, and of 64 small ones in one launch."""
    tensor = torch.randn(1 << 19, device=DEVICE, dtype=torch.bfloat16)
    scale = torch.tensor([98.0], device=DEVICE)
    several = [torch.randn(256, 256, device=DEVICE, dtype=torch.bfloat16) for _ in range(64)]
    one, many = (
        [(x.data_ptr(), 1, x.numel(), x.numel(), 0, scale.data_ptr(), 0) for x in tensors]
        for tensors in ([tensor], several)
    )
    cases = {f"1 MiB, {tier}": lambda tier=tier: ring.observe(one, tier) for tier in TIERS}
    cases |= {f"64 of 128 KiB, {tier}": lambda tier=tier: ring.observe(many, tier) for tier in TIERS}
    empty = torch.zeros(1, device=DEVICE)
    cases["a kernel of one element"] = lambda: empty.zero_()
    return interleaved(cases, rounds, 30, ring.clear)


def once(ring: Ring, mebibytes: int) -> None:
    """Launches each kernel once."""
    tensor = torch.randn(mebibytes << 19, device=DEVICE, dtype=torch.bfloat16)
    scale = torch.tensor([98.0], device=DEVICE)
    for tier in TIERS:
        ring.observe([(tensor.data_ptr(), 1, tensor.numel(), tensor.numel(), 0, scale.data_ptr(), 0)], tier)
    ring.clear()


def show(seconds: dict[str, float], mebibytes: int) -> None:
    """A row a case."""
    nbytes = mebibytes << 20
    floor, copied = seconds.get("floor", float("nan")), seconds["copy"] / 2
    print(f"| bf16, {mebibytes} MiB | µs | GB/s read | of the plain read | of the copy's bandwidth | times the naive |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, found in seconds.items():
        moved = 2 * nbytes if name == "copy" else nbytes
        shares = f"{100 * floor / found:.0f}% | {100 * copied / found:.0f}% | {seconds['naive'] / found:.1f}"
        print(f"| {name} | {found * 1e6:.1f} | {moved / found / 1e9:.0f} | {shares} |")


def built_floor() -> ctypes.CDLL:
    """The plain read, compiled."""
    target = Path(tempfile.mkdtemp()) / "floor.so"
    command = ["nvcc", "-O3", "-arch=native", "-shared", "-Xcompiler", "-fPIC", "-o", target, FLOOR_SOURCE]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


def main() -> None:
    """Prints tables, and with --json all numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", type=int, metavar="MIB")
    chosen = parser.parse_args()
    torch.cuda.init()
    torch.zeros(1, device=DEVICE)
    ring = Ring()
    if chosen.once:
        once(ring, chosen.once)
        ring.close()
        return
    library, numbers = built_floor(), {}
    for mebibytes in chosen.mebibytes:
        numbers[mebibytes] = large(ring, library, mebibytes, chosen.rounds)
        show(numbers[mebibytes], mebibytes)
    numbers["small"] = small(ring, chosen.rounds)
    for name, seconds in numbers["small"].items():
        print(f"{name}: {seconds * 1e6:.2f} µs")
    ring.close()
    if chosen.json:
        chosen.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    sys.exit(main())
