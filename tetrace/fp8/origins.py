"""What the search for NaN and Inf finds: tensors that were seen, where one went bad first, and how they are counted in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.fp8.observations import steps_seen, tensor_name

if TYPE_CHECKING:
    import pandas as pd

# How many of the ranks that a tensor may have come from are named.
_SENDERS = 4


@dataclass(frozen=True)
class Seen:
    """One observation of a tensor. `amax` is that of its finite values, NaN where it was not measured. `elements` were
    looked at, of `tensor_elements`: more where only some rows were (`--fp8-rows`)."""

    step: int
    module: str
    role: str
    phase: str
    operation: str
    elements: int
    nans: int
    infs: int
    amax: float
    tensor_elements: int

    @property
    def sampled(self) -> bool:
        """Whether only some rows of it were looked at."""
        return self.tensor_elements > self.elements

    @property
    def name(self) -> str:
        """Module and role."""
        return tensor_name(self.module, self.role)

    @property
    def finite(self) -> bool:
        """Whether no NaN and no infinity was in it."""
        return self.nans <= 0 and self.infs <= 0


@dataclass(frozen=True)
class Origin:
    """The first tensor of a stretch of steps that was not finite.

    `made_by` is the operation that made it where that is known (`read`: what it read); empty where it is not, and then it
    lies between `before`, the last observation that was finite, and this one. `next` are the tensors that went bad after
    it, `tensors` how many there were until `last_step`. `before_amax` is (step, amax) of the same tensor in earlier
    steps, `rank` the process where there are several. `parameters` are those of the module of a forward that were not
    observed in it: as they were last seen before it, and in its step after it.

    Gradients are read together before the optimizer's step. Where one is the first, it is so in the order of backward:
    `backward_before` are the modules whose gradients backward made before it, the first one first, all of them finite;
    `gradients` is how many of the step's gradients were not finite, and of how many; `wholly` whether each of them was
    NaN in all its elements, `alone` whether those that backward made after this module's are all finite,
    `place_known` whether its place in backward is known, and not taken for the reverse order of parameters.

    `jumped` are parameters, before and after, that grew at least a thousandfold in the last optimizer's step before this
    tensor was made in forward: those of its own module first, then those that grew most. `grew_first` is a tensor, before and
    then, that had grown so before that step of the optimizer: the first of them, where there is one.
    `compiled` is the module that torch.compile took whole which holds this tensor's: nothing inside it was observed.
    `received_from` are ranks that hold other modules, where the tensor is the first that its own one reads in forward or
    backward: it may have come from one of them.
    """

    tensor: Seen
    process: int
    rank: str
    dtype: str
    made_by: str
    read: tuple[Seen, ...]
    before: Seen | None
    next: tuple[Seen, ...]
    tensors: int
    last_step: int
    before_amax: tuple[tuple[int, float], ...]
    parameters: tuple[tuple[Seen | None, Seen | None], ...] = ()
    backward_before: tuple[str, ...] = ()
    gradients: tuple[int, int] = (0, 0)
    wholly: bool = False
    alone: bool = False
    place_known: bool = True
    jumped: tuple[tuple[Seen, Seen], ...] = ()
    grew_first: tuple[Seen, Seen] | None = None
    compiled: str = ""
    received_from: tuple[str, ...] = ()

    @property
    def senders(self) -> str:
        """In words, the ranks that it may have come from: `rank 0 or rank 2`; empty where there are none."""
        first, others = self.received_from[:_SENDERS], len(self.received_from) - _SENDERS
        words = [*first, f"{others} more"] if others > 0 else first
        return " or ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])

    @property
    def after(self) -> str:
        """In words, what is known of when it was made, where no operation is known that made it."""
        if self.received_from:
            return f"maybe received from {self.senders}"
        return f"after {self.before.name if self.before else 'the start'}"

    @property
    def overflowed_half(self) -> bool:
        """Whether it can be the range of fp16 that ended: an infinity in a tensor of that type."""
        return self.dtype in ("float16", "half") and self.tensor.infs > 0


@dataclass(frozen=True)
class NonFinite:
    """All origins, the first one first; `observations` and `steps` say how much was looked at, `checked` whether outputs
    of modules, loss, gradients and parameters were among it. Inspection that failed switched itself off in step
    `switched_off`: of what came after it nothing is known."""

    origins: tuple[Origin, ...]
    observations: int
    steps: tuple[int, ...]
    checked: bool
    whole_steps: int
    switched_off: int | None = None

    @property
    def seen(self) -> str:
        """In words, how many steps were looked at."""
        return steps_seen(self.whole_steps, self.steps)

    @property
    def table(self) -> pd.DataFrame:
        """The origins as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


COLUMNS = (
    *("step", "last_step", "rank", "module", "role", "phase", "operation", "nans", "infs", "elements", "made_by", "read"),
    *("after", "received_from", "tensors"),
)  # fmt: skip


def rows_of(found: NonFinite) -> list[dict[str, object]]:
    """The origins as rows with `COLUMNS`."""
    return [
        {
            "step": one.tensor.step,
            "last_step": one.last_step,
            "rank": one.rank,
            "module": one.tensor.module,
            "role": one.tensor.role,
            "phase": one.tensor.phase,
            "operation": one.tensor.operation,
            "nans": one.tensor.nans,
            "infs": one.tensor.infs,
            "elements": one.tensor.elements,
            "made_by": one.made_by,
            "read": "; ".join(read.name for read in one.read),
            "after": one.before.name if one.before else "",
            "received_from": "; ".join(one.received_from),
            "tensors": one.tensors,
        }
        for one in found.origins
    ]


def counts(seen: Seen) -> str:
    """`2 NaN and 1 Inf of 4,096 elements`."""
    kinds = [f"{count:,} {kind}" for kind, count in (("NaN", seen.nans), ("Inf", seen.infs)) if count]
    return f"{' and '.join(kinds)} of {looked_at(seen)}"


def looked_at(seen: Seen) -> str:
    """`4,096 elements`, or `512 of 4,096 elements looked at`."""
    if seen.sampled:
        return f"{seen.elements:,} of {seen.tensor_elements:,} elements looked at"
    return f"{seen.elements:,} elements"
