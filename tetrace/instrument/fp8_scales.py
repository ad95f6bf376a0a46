"""Scales of delayed scaling at each update: one observation gives those of all modules, with amaxes and histories.

What Transformer Engine's update is given, the amaxes of all tensors reduced over ranks among it, is copied before and
after it on its own stream, and read when the device has come so far: nobody waits.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from tetrace import _C
from tetrace.fp8.recorded import SCALE
from tetrace.instrument import dynamo, fp8_operands, modules, quantizers, ranges, steps
from tetrace.instrument.unseen import unseen

# Rows of the matrix that is copied to the host.
_AMAX, _HISTORY_MAX, _USED, _SCALE, _NEXT = range(5)
# Quantizers that are there in every module, or every attention, and often not used.
_SELDOM = ("output", "grad_input", *quantizers.OF_ATTENTION)
_DIRECTIONS = {"scaling_fwd": "forward", "scaling_bwd": "backward"}

_cuda: Any = torch.cuda


class Tensor(NamedTuple):
    """A tensor whose scale is updated: whose it is, and what."""

    module: str
    role: str
    direction: str
    format: str


class _Copy(NamedTuple):
    """Numbers on their way to the host."""

    step: int
    sites: Sequence[int]
    length: int
    values: torch.Tensor
    ready: Any  # event; None where they are there


class _Known(NamedTuple):
    """Sites of the tensors of some histories, for as long as these are there."""

    histories: Sequence[weakref.ref[torch.Tensor]]
    sites: Sequence[int]


class Scales:
    """Observes updates in the steps that are watched; `take(rows)` gets rows of `SCALE` as bytes.

    `guarded(function)` makes a function that never raises, `wanted(module)` says of which modules.
    """

    def __init__(
        self,
        take: Callable[[bytes], None],
        guarded: Callable[[Callable[..., Any]], Callable[..., Any]],
        wanted: Callable[[str], bool],
    ) -> None:
        self._take, self._wanted = take, wanted
        self._before, self._after = guarded(self._read_before), guarded(self._read_after)
        # By the addresses of the histories; another model may get the same ones later.
        self._known: dict[tuple[int, ...], _Known] = {}
        self._waiting: list[_Copy] = []
        self._free: list[torch.Tensor] = []

    def around(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`, the update, with an observation before and after it."""

        @functools.wraps(plain)
        def update(amax: Any, *args: Any, **kwargs: Any) -> Any:
            before = self._before(amax, *args) if _C.watch_is_on() else None
            result = plain(amax, *args, **kwargs)
            if before is not None:
                self._after(before, args[0], args[1])
            return result

        update._torchdynamo_disable = True  # type: ignore[attr-defined]
        return dynamo.skipped(update)

    @unseen
    @dynamo.quiet
    def _read_before(self, amax: Any, *args: Any) -> Any:
        """The numbers before the update, shape (4, tensors); None where there is nothing to see."""
        if len(args) < 2 or not isinstance(args[0], list | tuple):
            return None
        if fp8_operands.is_captured(amax) or not fp8_operands.has_values(amax):
            return None
        with torch.no_grad():
            return torch.stack([amax.float(), *_histories(args[0]), torch.cat(list(args[1]))])

    @unseen
    @dynamo.quiet
    def _read_after(self, before: Any, histories: Sequence[Any], scales: Sequence[Any]) -> None:
        with torch.no_grad():
            values = torch.cat([before, torch.cat(list(scales))[None]])
            self._waiting.append(self._copied(values, self._sites_of(histories), len(histories[0])))

    def _copied(self, values: torch.Tensor, sites: Sequence[int], length: int) -> _Copy:
        if not values.is_cuda:
            return _Copy(steps.current(), sites, length, values, None)
        host = next((one for one in self._free if one.shape == values.shape), None)
        if host is None:
            host = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
        else:
            self._free = [one for one in self._free if one is not host]
        host.copy_(values, non_blocking=True)
        ready = _cuda.Event()
        ready.record()
        return _Copy(steps.current(), sites, length, host, ready)

    def turn(self, patience_s: float = 0.0) -> None:
        """Hands on what has come to the host; waits up to `patience_s` for the rest."""
        if patience_s and self._waiting and self._waiting[-1].ready is not None:
            _wait(self._waiting[-1].ready, patience_s)
        while self._waiting and (self._waiting[0].ready is None or self._waiting[0].ready.query()):
            done = self._waiting.pop(0)
            self._take(_rows(done))
            if done.ready is not None:
                self._free.append(done.values)

    def _sites_of(self, histories: Sequence[Any]) -> Sequence[int]:
        """The site of each tensor, -1 for those that are not wanted."""
        key = tuple(one.data_ptr() for one in histories)
        known = self._known.get(key)
        if known is None or any(held() is not one for held, one in zip(known.histories, histories, strict=True)):
            tensors = dict(_tensors())
            sites = [
                self._site(tensors.get((address, place)))
                for address, history in zip(key, histories, strict=True)
                for place in range(history.shape[1])
            ]
            known = self._known[key] = _Known([weakref.ref(one) for one in histories], sites)
        return known.sites

    def _site(self, tensor: Tensor | None) -> int:
        if tensor is None or not self._wanted(tensor.module):
            return -1
        return ranges.site("fp8", f"scale {tensor.role}", **{**tensor._asdict(), "scaling": "delayed"})


def _histories(histories: Sequence[Any]) -> tuple[Any, Any]:
    """(largest entry, number of entries that are not zero) of each tensor's history, float32 of shape (tensors,).

    The newest of the entries, which this step's casts write, is the first and not finished: it is left out.
    """
    if len({len(one) for one in histories}) > 1:
        parts = [_histories([one]) for one in histories]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    past = torch.cat(list(histories), 1)
    past = past[1:] if len(past) > 1 else past
    return past.amax(0), past.count_nonzero(0).float()


def _tensors() -> Iterator[tuple[tuple[int, int], Tensor]]:
    """((address of a history, place in it), tensor) of all modules with delayed scaling."""
    for path, module in modules.all_modules():
        for state in _states(module):
            for word, direction in _DIRECTIONS.items():
                history = getattr(state.get(word), "amax_history", None)
                if history is None:
                    continue
                roles = quantizers.roles_of(module, direction, history.shape[1])
                number_format = _format(state.get("recipe"), direction)
                for place, role in enumerate(roles):
                    if role:
                        yield (history.data_ptr(), place), Tensor(path, role, direction, number_format)


def _states(module: Any) -> Iterator[Any]:
    """`fp8_meta` of a module, or those of an operation."""
    held = vars(module)
    if isinstance(held.get("fp8_meta"), dict):
        yield held["fp8_meta"]
    of_operation = held.get("_fp8_metas")
    if isinstance(of_operation, dict):
        yield from (one for one in of_operation.values() if isinstance(one, dict))


def _format(recipe: Any, direction: str) -> str:
    name = str(getattr(recipe, "fp8_format", "")).rpartition(".")[2]
    return {"HYBRID": "E4M3" if direction == "forward" else "E5M2"}.get(name, name)


def _wait(ready: Any, patience_s: float) -> None:
    import time

    end = time.monotonic() + patience_s
    while not ready.query() and time.monotonic() < end:
        time.sleep(0.001)


def _rows(copy: _Copy) -> bytes:
    values = copy.values.numpy()
    sites = np.array(copy.sites, np.int32)
    rows = np.zeros(len(sites), SCALE)
    rows["site"], rows["step"], rows["length"] = sites, copy.step, copy.length
    for name, place in (("amax", _AMAX), ("scale", _SCALE), ("next_scale", _NEXT), ("history_max", _HISTORY_MAX)):
        rows[name] = values[place]
    rows["used"] = values[_USED]
    roles = [str(ranges.describe(site).get("role", "")).rpartition(".")[2] for site in copy.sites]
    unused = np.isin(roles, _SELDOM)
    unused &= (rows["amax"] == 0) & (rows["used"] == 0)
    return rows[(sites >= 0) & ~unused].tobytes()
