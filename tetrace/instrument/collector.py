"""The collector in this process: a library that CUDA's driver loads (csrc/collector), told when to record and when not.

CUPTI serves one tool at a time. `torch.profiler`, entered by the script, gets it, and the collector takes it back when
the profile has ended: in between the GPU is not recorded, which is said. Nobody waits for the GPU, as Kineto does not when
a profile begins: what it has not finished by then is missing too (sources/cupti_unfinished.py).
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
from collections.abc import Callable
from typing import Any

import torch.autograd.profiler

from tetrace.instrument import dynamo, masking, process, steps
from tetrace.instrument.patches import Patches

_PROFILER = "torch.profiler"
# Set to 1, Kineto shuts CUPTI down for the whole process at some CUDA call after the profile: whoever took it back
# before would lose it, and not be told.
_TEARDOWN = "TEARDOWN_CUPTI"
_NO_REASON = "the collector does not say why"
_PATH = "CUDA_INJECTION64_PATH"
_MOST_TOLD = 5

_library: Any = None
_window_open = False
_settled = False  # whether it is known how recording goes
_noted = ""  # the state that process.json has
_lost = ""  # why CUPTI did not come back
_profiles: set[int] = set()  # ids of those that have CUPTI


class _Gaps:
    """Steps in which the GPU is not recorded though the window is open: one notice, kept up to date."""

    def __init__(self) -> None:
        self._gaps: list[tuple[int, int | None]] = []
        self._told = ""

    def begin(self, step: int) -> bool:
        """Opens a gap in `step`; returns whether it is the first."""
        self._gaps.append((step, None))
        self._tell()
        return len(self._gaps) == 1

    def end(self) -> None:
        """Closes the gap that is open, if there is one."""
        if self._gaps and self._gaps[-1][1] is None:
            self._gaps[-1] = self._gaps[-1][0], steps.current()
            self._tell()

    def _tell(self) -> None:
        process.retract(self._told)
        spans = [_span(first, last) for first, last in self._gaps[-_MOST_TOLD:]]
        more = len(self._gaps) - len(spans)
        before = f"{more} times before, then " if more else ""
        self._told = f"the GPU is not recorded while {_PROFILER} has CUPTI: {before}{', '.join(spans)}"
        process.notice(self._told)


def _span(first: int, last: int | None) -> str:
    if first == last:
        return f"in step {first}"
    return f"from step {first} {'on' if last is None else f'until step {last}'}"


_gaps = _Gaps()


def install() -> Callable[[], None]:
    """Opens the library that the driver loads, and follows `torch.profiler`.

    Returns the function that has everything written and lets go of both. Raises `OSError` or `AttributeError` where the
    library cannot be opened, or is another; `LookupError` where the driver is not told of it any more.
    """
    global _library, _gaps, _settled, _noted, _lost
    try:
        # The path that the driver has: one library, and not a copy of it.
        _library = _opened(_path())
    except (OSError, AttributeError, LookupError) as error:
        process.note(collector={"state": "failed", "reason": masking.plain(f"its library cannot be used ({error})")})
        raise
    _gaps, _settled, _noted, _lost = _Gaps(), False, "", ""
    patches = Patches()
    profile = torch.autograd.profiler.profile
    patches.method(profile, "_prepare_trace", _beginning)
    patches.method(profile, "__exit__", _ended)
    steps.before_step.append(_look)

    def restore() -> None:
        patches.restore()
        steps.before_step.remove(_look)
        _finish()

    return restore


def _path() -> str:
    if path := os.environ.get(_PATH):
        return path
    raise LookupError(f"{_PATH} is not set any more, so that CUDA loads no collector; keep it in the environment")


def _opened(path: str) -> Any:
    library = ctypes.CDLL(path)
    for name in ("start", "stop", "flush", "resume", "yield"):
        getattr(library, f"tetrace_collector_{name}").restype = None
    library.tetrace_collector_yield.argtypes = [ctypes.c_char_p]
    library.tetrace_collector_state.restype = ctypes.c_char_p
    return library


def start(step: int) -> None:
    """Opens this process's window: `step` begins."""
    global _window_open
    if not _is_here():
        return
    _window_open = True
    _library.tetrace_collector_start()
    yielded = _note_state()["state"] == "yielded"
    if yielded and _profiles:
        _say_gap(step)
    elif _lost:
        _say_lost(step)


def stop() -> None:
    """Closes it: what was launched by now is still written, and nobody waits for the GPU."""
    global _window_open, _settled
    if not _window_open or not _is_here():
        return
    _library.tetrace_collector_stop()
    _note_state()
    if not _lost:
        _gaps.end()
    _window_open, _settled = False, True


def _finish() -> None:
    """Has everything written: the process ends, maybe by a call after which no code runs."""
    global _library
    stop()
    if _is_here():
        _library.tetrace_collector_flush()
        _note_state()
    _library = None
    _profiles.clear()


def _is_here() -> bool:
    """False where there is no library, and in a forked child, where it records nothing."""
    return _library is not None and process.folder() is not None


def _look(_step: int) -> None:
    """Before each step, until it is known how recording goes: CUDA may be initialized late."""
    if not _settled and _is_here() and _state()["state"] != _noted:
        _note_state()


def _state() -> dict[str, Any]:
    """What it says of itself; reasons may name files."""
    said = _library.tetrace_collector_state()
    state = json.loads(said) if said else {"state": "failed"}
    return {**state, "reason": masking.plain(str(state.get("reason", "")))}


def _note_state() -> dict[str, Any]:
    """Keeps what the collector says of itself in process.json; it has told a failure itself."""
    global _settled, _noted
    state, was_recording = _state(), _noted == "recording"
    _noted = str(state["state"])
    _settled = _noted in ("recording", "failed")
    process.note(collector={name: value for name, value in state.items() if name != "library"})
    if _noted == "failed":
        when = " any more" if was_recording else ""
        process.notice(f"the GPU is not recorded{when}: {state.get('reason') or _NO_REASON}")
    return state


def _beginning(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Around where Kineto takes CUPTI; the first time it does, and keeps it, for a profile of the CPU alone too."""

    @functools.wraps(plain)
    def _prepare_trace(profile: Any, *args: Any, **kwargs: Any) -> Any:
        _give(id(profile))
        try:
            return plain(profile, *args, **kwargs)
        except BaseException:
            _take_back(id(profile))
            raise

    return dynamo.skipped(_prepare_trace)


def _ended(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def __exit__(profile: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in torch
        try:
            return plain(profile, *args, **kwargs)
        finally:
            _take_back(id(profile))

    return dynamo.skipped(__exit__)


@dynamo.quiet
def _give(profile: int) -> None:
    with process.guarded(f"making way for {_PROFILER}"):
        if not _is_here():
            return
        if not _profiles:
            recording = _state()["state"] == "recording"
            _library.tetrace_collector_yield(_PROFILER.encode())
            if _window_open and recording:
                _say_gap(steps.current())
        _profiles.add(profile)


@dynamo.quiet
def _take_back(profile: int) -> None:
    global _lost
    with process.guarded(f"recording on after {_PROFILER}"):
        if not _is_here() or profile not in _profiles:
            return
        _profiles.discard(profile)
        if not _profiles:
            _lost = _resume()
            if _window_open and _lost:
                _say_lost(steps.current())
            elif _window_open:
                _gaps.end()


def _resume() -> str:
    """Takes CUPTI back; returns why that failed, "" where it did not."""
    if os.environ.get(_TEARDOWN) == "1":
        return f"{_TEARDOWN}=1 has it shut CUPTI down later; unset it to record on after a profile"
    _library.tetrace_collector_resume()
    state = _note_state()
    return str(state.get("reason") or _NO_REASON) if state["state"] in ("yielded", "failed") else ""


def _say_gap(step: int) -> None:
    if _gaps.begin(step):
        what = "what the GPU has not finished by now, and what it does until the profile ends"
        process.say(f"{_PROFILER} takes CUPTI in step {step}: {what}, is not recorded")


def _say_lost(step: int) -> None:
    process.warn(f"{_PROFILER} kept CUPTI ({_lost}): from step {step} on the GPU is not recorded")
