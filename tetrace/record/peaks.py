"""Measures what a GPU does at best: copying, reading, matrix products. Device times are CUDA events', on one stream.

Each figure is a median over repeats, after as much warming up as the clocks and allocations need, with other work of this
process at rest. It is what the GPU reaches in a row and at its own power limit, not what one lucky call does.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tetrace.record import launches

if TYPE_CHECKING:
    import torch

# Many times any L2 cache, so that memory is measured; less only where the GPU has not the room.
_COPY_BYTES = 2 << 30
_REPEATS = 20
# Milliseconds of work before a figure is taken: clocks rise within some tens, power settles within some hundreds.
_WARM_MS = 300
# M, N, K: sizes that training has, of which the best counts. Larger ones only get hotter.
_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 8192))
_SEED = 1234
# 448 is the largest E4M3 number; normal data reaches about 5.5 standard deviations here.
_E4M3_SPREAD = 80.0
_FP8_CAPABILITY = (8, 9)


def measure(device: int) -> dict[str, Any]:
    """All figures of CUDA device `device`.

    `copy_bytes_per_s`: bytes read plus bytes written by a copy of `copy_bytes` within the device, a second.
    `read_bytes_per_s`: bytes read by the reduction `torch.amax` over BF16, a second.
    `bf16_flops`: 2·M·N·K a second of a BF16 product with normal random data and FP32 accumulation, the best of three
    sizes, which `bf16_shape` names. `fp8_flops`: the same for E4M3 operands scaled by tensor with a BF16 result, and fast
    accumulation as TE has it in fprop. `fp8_split_flops`: with full accumulation, as in dgrad and wgrad. Both are None
    where the GPU or torch has no FP8 product, with the reason in `fp8_reason`.
    The rest is `tetrace.record.launches.measure`'s.
    """
    import torch

    with torch.cuda.device(device), torch.no_grad():
        return {**_memory(torch), **_bf16(torch), **_fp8(torch, device), **launches.measure(torch)}


def _memory(torch: Any) -> dict[str, Any]:
    free, _ = torch.cuda.mem_get_info()
    # Source and destination, and a quarter left for others.
    size = min(_COPY_BYTES, free * 3 // 8) // 4096 * 4096
    source = torch.randn(size // 2, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copy_ns = _median_ns(torch, lambda: target.copy_(source))
    read_ns = _median_ns(torch, lambda: torch.amax(source))
    return {
        "copy_bytes": size,
        "copy_bytes_per_s": _rate(2 * size, copy_ns),
        "read_bytes_per_s": _rate(size, read_ns),
    }


def _bf16(torch: Any) -> dict[str, Any]:
    def product(m: int, n: int, k: int) -> Callable[[], Any]:
        left, right = _normal(torch, m, k), _normal(torch, n, k)
        result = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        return lambda: torch.mm(left, right.t(), out=result)

    flops, shape = _best(torch, product)
    return {"bf16_flops": flops, "bf16_shape": shape}


def _fp8(torch: Any, device: int) -> dict[str, Any]:
    missing = {"fp8_flops": None, "fp8_split_flops": None, "fp8_shape": None}
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < _FP8_CAPABILITY:
        return {**missing, "fp8_reason": f"compute capability {major}.{minor}; FP8 begins at 8.9"}
    if not hasattr(torch, "_scaled_mm") or not hasattr(torch, "float8_e4m3fn"):
        return {**missing, "fp8_reason": f"torch {torch.__version__} has no FP8 product"}
    try:
        fast, shape = _best(torch, lambda *sizes: _scaled(torch, True, *sizes))
        split, _ = _best(torch, lambda *sizes: _scaled(torch, False, *sizes))
    except (RuntimeError, TypeError, ValueError) as error:
        # A private function of torch, whose signature has changed before.
        return {**missing, "fp8_reason": " ".join(str(error).split())[:200]}
    return {"fp8_flops": fast, "fp8_split_flops": split, "fp8_shape": shape, "fp8_reason": ""}


def _scaled(torch: Any, fast: bool, m: int, n: int, k: int) -> Callable[[], Any]:
    left, right = (_normal(torch, rows, k).mul_(_E4M3_SPREAD).clamp_(-448, 448) for rows in (m, n))
    left, right = (operand.to(torch.float8_e4m3fn) for operand in (left, right))
    scale = torch.full((), 1 / _E4M3_SPREAD, device="cuda", dtype=torch.float32)
    options = {"scale_a": scale, "scale_b": scale, "out_dtype": torch.bfloat16, "use_fast_accum": fast}
    return lambda: torch._scaled_mm(left, right.t(), **options)


def _normal(torch: Any, rows: int, columns: int) -> torch.Tensor:
    """Random data: constant operands draw less power, and a GPU then runs them faster than any training."""
    generator = torch.Generator(device="cuda").manual_seed(_SEED + rows)
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16, generator=generator)


def _best(torch: Any, product: Callable[[int, int, int], Callable[[], Any]]) -> tuple[int, list[int]]:
    """The largest rate over the sizes that fit, and its M, N, K."""
    rates = []
    for m, n, k in _fitting(torch):
        rates.append((_rate(2 * m * n * k, _median_ns(torch, product(m, n, k))), [m, n, k]))
        torch.cuda.empty_cache()
    return max(rates)


def _fitting(torch: Any) -> Iterator[tuple[int, int, int]]:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    for number, (m, n, k) in enumerate(_SHAPES):
        # BF16 operands, their FP8 copies while these are made, and the result.
        if not number or 4 * (m * k + n * k + m * n) < free // 2:
            yield m, n, k


def _median_ns(torch: Any, work: Callable[[], Any]) -> float:
    """Median device time of one `work` among many in a row, in nanoseconds."""
    _warm(torch, work)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(_REPEATS + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    # Events tell milliseconds, with a resolution of about half a microsecond.
    return statistics.median(a.elapsed_time(b) * 1e6 for a, b in itertools.pairwise(events))


def _warm(torch: Any, work: Callable[[], Any]) -> None:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    work()
    done = 0.0
    while done < _WARM_MS:
        begin.record()
        for _ in range(5):
            work()
        end.record()
        end.synchronize()
        done += max(begin.elapsed_time(end), 0.1)


def _rate(amount: int, ns: float) -> int:
    """`amount` in `ns`, as an integer a second."""
    return round(amount * 1e9 / ns)
