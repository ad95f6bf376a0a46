"""What holds the memory, by module, and in which phase the peak was reached: modules.json and memory.json.

Sizes come from tensors' metadata: nothing is read from a device, and nothing waits for one. Peaks come from the
allocator's own counters, which are never reset, because the script may read them: a phase in which the counter grew
made the peak so far, and of a phase that never did nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import Module

from tetrace.instrument import dynamo, modules, optimizer, process, steps

# Fields of Transformer Engine's quantized tensors, whatever their class, that hold data for one direction of a GEMM.
_FP8 = ("_data", "_rowwise_data", "_scale_inv", "_rowwise_scale_inv")
_TRANSPOSED = ("_transpose", "_columnwise_data", "_columnwise_scale_inv")
# What optimizers call the copy of a parameter in full precision.
_MASTERS = ("master_param", "master_params", "fp32_param", "exp_avg_master")

_cuda: Any = torch.cuda
_peaks: list[dict[str, Any]] = []
_highest = [0]
_watched_steps = 0


def install(warmup: int) -> Callable[[], None]:
    """Accounts for memory when the first step and the one after `warmup` steps end; watches peaks until then."""
    global _watched_steps
    _watched_steps = warmup + 2
    _peaks.clear()
    _highest[0] = 0

    def on_step(step: int) -> None:
        process.note_device()
        if step in (1, warmup + 1):
            write()

    steps.on_step.append(on_step)
    optimizer.on_phase.append(_phase_ended)

    def restore() -> None:
        steps.on_step.remove(on_step)
        optimizer.on_phase.remove(_phase_ended)

    return restore


@dynamo.quiet
def write() -> None:
    """Writes both files as things stand now."""
    with process.guarded("accounting for memory"):
        process.write("modules.json", {"modules": by_module()})
        if _peaks:
            process.write("memory.json", {"peaks": _peaks})


@dynamo.quiet
def _phase_ended(phase: str) -> None:
    """Notes the allocator's peak if it is new since the last phase ended."""
    if steps.current() >= _watched_steps or not _cuda.is_initialized() or process.folder() is None:
        return
    with process.guarded("reading the allocator's counters"):
        counters = torch._C._cuda_memoryStats(torch.cuda.current_device())
        allocated = counters["allocated_bytes"]["all"]["peak"]
        if allocated > _highest[0]:
            _highest[0] = allocated
            reserved = counters["reserved_bytes"]["all"]["peak"]
            row = {"phase": phase, "allocated_bytes": allocated, "reserved_bytes": reserved, "step": steps.current()}
            _peaks.append(row)


def by_module() -> list[dict[str, Any]]:
    """One row for each module of a model that holds tensors itself; what children hold is in their rows."""
    states = {id(parameter): state for one in list(steps.optimizers) for parameter, state in _states(one)}
    seen: set[int] = set()
    rows = [_row(path, module, states, seen) for path, module in modules.all_modules()]
    return [row for row in rows if any(value for name, value in row.items() if name not in ("path", "class"))]


def _row(path: str, module: Module, states: dict[int, Any], seen: set[int]) -> dict[str, Any]:
    row: dict[str, Any] = {"path": path, "class": type(module).__name__, "parameters": 0, "parameter_bytes": 0}
    row |= {"fp8_bytes": 0, "transpose_bytes": 0, "master_bytes": 0, "optimizer_bytes": 0}
    for parameter in (module.__dict__.get("_parameters") or {}).values():
        if parameter is not None and id(parameter) not in seen:
            seen.add(id(parameter))
            _add_parameter(row, parameter, states.get(id(parameter), {}))
    for copy in (module.__dict__.get("_fp8_workspaces") or {}).values():
        _add_quantized(row, copy)
    return row


def _add_parameter(row: dict[str, Any], parameter: Any, state: dict[str, Any]) -> None:
    row["parameters"] += parameter.numel()
    if not _add_quantized(row, parameter):
        row["parameter_bytes"] += _bytes(parameter)
    for name, value in state.items():
        row["master_bytes" if name in _MASTERS else "optimizer_bytes"] += sum(map(_bytes, _tensors(value)))


def _add_quantized(row: dict[str, Any], tensor: Any) -> bool:
    """Adds a quantized tensor's copies; False when `tensor` is an ordinary one."""
    fields = getattr(tensor, "__dict__", {})
    found = {name: fields[name] for name in (*_FP8, *_TRANSPOSED) if isinstance(fields.get(name), torch.Tensor)}
    for name, data in found.items():
        row["transpose_bytes" if name in _TRANSPOSED else "fp8_bytes"] += _bytes(data)
    return bool(found)


def _states(one: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(parameter, its state) of an optimizer, without creating a state where there is none."""
    for group in one.param_groups:
        for parameter in group["params"]:
            if parameter in one.state:
                yield parameter, one.state[parameter]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _bytes(tensor: Any) -> int:
    """Size of the part that this process holds, in bytes."""
    local = getattr(tensor, "_local_tensor", tensor)
    return int(local.numel() * local.element_size())
