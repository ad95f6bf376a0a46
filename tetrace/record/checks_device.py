"""Checks of the GPU and its driver, and of what is known of its speed."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tetrace.record.finding import Finding, Surroundings
from tetrace.record.nvidia import Gpu
from tetrace.units import byte_count

# A context of nobody's: the driver itself keeps up to about this much on a GPU without processes.
_IDLE_BYTES = 1 << 30
# What FP8 needs (Ada), and what Transformer Engine's full set of FP8 recipes begins at (Hopper).
_FP8, _HOPPER = (8, 9), (9, 0)


def driver(around: Surroundings) -> Iterator[Finding]:
    """Whether a GPU is there and CUDA starts on it."""
    known = around.driver
    if not known.gpus:
        why = "no NVIDIA driver" if "libnvidia-ml" in known.error and "cannot open" in known.error else known.error
        way_out = "record on the machine that trains (in a container: run it with --gpus all)"
        yield Finding("absent", "GPU", f"{why}; the host's times of a run can be recorded all the same", way_out)
        return
    yield Finding("ok", "Driver", f"{known.version}, runs programs for CUDA {known.cuda} and older")
    cuda = around.probe.get("cuda")
    if cuda and (cuda["result"] or not cuda["devices"]):
        visible = around.environment.get("CUDA_VISIBLE_DEVICES")
        said = f"CUDA does not start ({cuda['name']})" if cuda["result"] else "CUDA sees no device"
        hint = f"CUDA_VISIBLE_DEVICES is {visible!r}; " if visible is not None else ""
        yield Finding("fail", "CUDA", said, f"{hint}try nvidia-smi; load the driver's modules again or restart")


def gpus(around: Surroundings) -> Iterator[Finding]:
    """Each GPU, and what about it spoils a recording."""
    alike: dict[str, list[Gpu]] = {}
    for gpu in around.driver.gpus:
        alike.setdefault(gpu.name, []).append(gpu)
    for name, same in alike.items():
        count = f"{len(same)} × " if len(same) > 1 else ""
        said = f"{count}{name}, {byte_count(same[0].memory_bytes)}"
        if same[0].capability:
            said += f", compute capability {same[0].capability} ({_fp8(same[0].capability)})"
        yield Finding("ok", "GPU", said)
    for gpu in around.driver.gpus:
        yield from _spoiled(gpu)


def _fp8(capability: str) -> str:
    version = tuple(int(part) for part in capability.split("."))
    if version >= _HOPPER:
        return "has FP8"
    return "has FP8 with fewer recipes" if version >= _FP8 else "has no FP8: it begins at 8.9"


def _spoiled(gpu: Gpu) -> Iterator[Finding]:
    name = f"GPU {gpu.index}"
    if gpu.prohibited:
        yield Finding("fail", name, "its compute mode is Prohibited: no program may use it", "nvidia-smi -c DEFAULT")
    if gpu.slowed:
        said = f"slowed down now by {', '.join(gpu.slowed)}; SM clock {gpu.sm_mhz} of {gpu.sm_mhz_max} MHz"
        yield Finding("warn", name, said, "let it cool and idle, or compare only runs in one state")
    others = [pid for pid in gpu.processes if pid != os.getpid()]
    if others:
        listed = ", ".join(map(str, others[:5])) + (" and more" if len(others) > 5 else "")
        said = f"other programs are on it (process {listed}; {byte_count(gpu.memory_used_bytes)} in use)"
        yield Finding("warn", name, said, "wait for them or end them: they take time that the report gives to your run")
    elif gpu.memory_used_bytes > _IDLE_BYTES:
        said = f"{byte_count(gpu.memory_used_bytes)} are in use by programs that cannot be seen from here"
        yield Finding("warn", name, said, "look outside of this container: they share its time")
    if gpu.mig:
        yield Finding(
            "warn", name, "split by MIG: the peaks of the whole GPU do not apply", "calibrate the slice itself"
        )


def clocks(around: Surroundings) -> Iterator[Finding]:
    """What the clocks do between runs."""
    off = [str(gpu.index) for gpu in around.driver.gpus if gpu.persistence is False]
    if off:
        said = (
            f"persistence mode is off on GPU {', '.join(off)}: the first program after idling pays the driver's start"
        )
        yield Finding("warn", "Clocks", said, "nvidia-smi -pm 1 (needs root); it spoils start-up times, not steps")


def calibrated(around: Surroundings) -> Iterator[Finding]:
    """Whether this GPU's own peaks are known."""
    if not around.has_gpu:
        return
    if around.calibration is None:
        said = "not measured on this machine: reports have no peak to divide by"
        yield Finding("absent", "Calibration", said, "tetrace doctor --calibrate, once (half a minute)")
    else:
        yield Finding("ok", "Calibration", f"measured on {around.calibration['measured_at'][:10]}, recordings keep it")
