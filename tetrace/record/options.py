"""What to record: the options of `tetrace record`, and the form in which they reach the recorded processes."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from tetrace.errors import UsageError

COLLECTORS = ("auto", "nsys", "cupti", "events", "host")
CALLS = ("launches", "all")
# Steps from one that CUDA events measure to the next.
EVERY = 10
RANGES = ("modules", "coarse", "off")
# Steps that are recorded after the warm-up where nothing else is said.
_DEFAULT_STEPS = 20
_STEPS = re.compile(r"(?P<one>\d+)|(?P<first>\d*):(?P<last>\d*)")


@dataclass(frozen=True)
class Window:
    """What part of the run is recorded: from step `first_step` until step `last_step` (exclusive) or `seconds` pass."""

    first_step: int = 0
    last_step: int | None = None
    seconds: float | None = None

    @property
    def whole_run(self) -> bool:
        """Whether nothing is left out."""
        return not self.first_step and self.last_step is None and self.seconds is None


@dataclass(frozen=True)
class Inspected:
    """What is inspected of FP8: in every `every`-th step, tensors of modules in whose path `modules` is found. In every
    `recompute`-th step what fused kernels cast is made again, in none where it is 0; of large tensors every `rows`-th row
    is looked at."""

    every: int = 1
    modules: str = ""
    histogram: bool = True
    blocks: bool = False
    recompute: int = 0
    rows: int = 1


def inspected(
    fp8: bool,
    every: int | None,
    modules: str | None,
    histogram: bool | None,
    blocks: bool,
    recompute: int | None = None,
    rows: int | None = None,
) -> Inspected | None:
    """What `--fp8` and its options name; None without it.

    Raises `UsageError` for an option of it without `--fp8`, and for what is no regular expression.
    """
    given = {"every": every is not None, "modules": modules is not None, "histogram": histogram is not None}
    given |= {"blocks": blocks, "recompute": recompute is not None, "rows": rows is not None}
    extra = next((name for name, is_given in given.items() if is_given), None)
    if not fp8 and extra is not None:
        raise UsageError(f"--fp8-{extra} says how --fp8 inspects; give --fp8 too")
    if not fp8:
        return None
    try:
        re.compile(modules or "")
    except re.error as error:
        raise UsageError(
            f"--fp8-modules {modules!r} is no regular expression ({error}); in the shell, quote it"
        ) from error
    return Inspected(every or 1, modules or "", histogram is not False, blocks, recompute or 0, rows or 1)


@dataclass(frozen=True)
class Options:
    """The options of one recording. `output` is where the recording goes, None for a name made from the script's."""

    output: Path | None = None
    collector: str = "auto"
    window: Window = Window()
    warmup: int = 5
    ranges: str = "modules"
    nsys: tuple[str, ...] = ()
    keep_nsys_rep: bool = False
    force: bool = False
    calls: str = "launches"
    every: int | None = None
    fp8: Inspected | None = None

    def document(self, collector: str, capture: str) -> dict[str, object]:
        """What the instrumentation is told. `capture` is how it opens the window: nvtx, collector, or none."""
        return {
            "collector": collector,
            "ranges": self.ranges,
            "first_step": self.window.first_step,
            "last_step": self.window.last_step,
            "seconds": self.window.seconds,
            "warmup": self.warmup,
            "capture": capture,
            **({"every": self.every or EVERY} if collector == "events" else {}),
            **({"fp8": asdict(self.fp8)} if self.fp8 is not None else {}),
        }

    def variable(self, collector: str, capture: str) -> str:
        """`document` as the value of TETRACE_OPTIONS."""
        return json.dumps(self.document(collector, capture))


def window(steps: str | None, seconds: float | None, warmup: int, collector: str = "auto") -> Window:
    """The window that `--steps` and `--seconds` name; without them, the warm-up and the twenty steps after it, and with
    CUDA events the whole run.

    It begins with the process unless a first step is asked for: CUDA graphs are captured while warming up.
    Raises `UsageError` for what is no window.
    """
    if steps is not None and seconds is not None:
        raise UsageError(f"--steps {steps} and --seconds {seconds:g} exclude each other; leave one out")
    if seconds is not None:
        if not 0 < seconds < float("inf"):
            raise UsageError(f"--seconds {seconds:g} is no length of time; give more than 0")
        return Window(seconds=seconds)
    if steps is None and collector == "events":
        return Window()
    if steps is None:
        return Window(last_step=warmup + _DEFAULT_STEPS)
    return Window() if steps == "all" else _steps(steps)


def _steps(steps: str) -> Window:
    found = _STEPS.fullmatch(steps)
    if found is None or steps == ":":
        raise UsageError(f"--steps {steps} is no window; give 10:20 (steps 10 to 19), 10:, :20, 7 or all")
    if found["one"]:
        return Window(int(found["one"]), int(found["one"]) + 1)
    first, last = int(found["first"] or 0), int(found["last"]) if found["last"] else None
    if last is not None and last <= first:
        raise UsageError(f"--steps {steps} holds no step; the second number must be greater than the first")
    return Window(first, last)
