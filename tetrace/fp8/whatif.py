"""Would another recipe, format or margin have held? Answered from recorded histograms, for each tensor.

Saturation and underflow are bounds that hold; SNR is an estimate. What ran is said over the same observations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.fp8.observations import Rows, groups, non_finite, tensor_name, tensors
from tetrace.fp8.predicted import Case, Predicted, nonzero
from tetrace.fp8.prediction import FORMATS
from tetrace.fp8.settings import BLOCK_WISE, Settings

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from tetrace.trace.trace import Trace

    Places = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]

_NAMES = [one.name for one in FORMATS]
# Below this share of a tensor's values a loss is not worth a word.
NOTABLE = 0.01


@dataclass(frozen=True)
class Row:
    """A tensor, over all steps that could be predicted. Shares are of all elements (saturated) and of those that are not
    zero (flushed); `ran_` is what was recorded, NaN where it was not. `history` is how many steps the longest amax
    history had. SNR is in dB, infinite where there is no error."""

    module: str
    role: str
    ran_recipe: str
    ran_format: str
    recipe: str
    format: str
    steps: int
    elements: int
    amax: float
    ran_saturated: float
    saturated_lower: float
    saturated_upper: float
    ran_flushed: float
    flushed_lower: float
    flushed_upper: float
    ran_snr_db: float
    snr_db: float
    worst_step: int
    history: int

    @property
    def name(self) -> str:
        """Module and role."""
        return tensor_name(self.module, self.role)

    @property
    def snr_change_db(self) -> float:
        """Gain of SNR against what ran, estimated."""
        return self.snr_db - self.ran_snr_db if self.snr_db != self.ran_snr_db else 0.0


COLUMNS = (*(field.name for field in dataclasses.fields(Row)), "snr_change_db")


@dataclass(frozen=True)
class WhatIf:
    """The answer: `rows`, the tensor that would lose most first, and what could not be answered, by reason and tensors.

    `wanted_history` is the length of the amax history that was asked for, 0 where none is needed.
    """

    settings: Settings
    rows: tuple[Row, ...]
    unanswered: Mapping[str, int]
    wanted_history: int
    sampled: bool

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


def rows_of(found: WhatIf) -> list[dict[str, Any]]:
    """The rows as dictionaries with `COLUMNS`."""
    return [{**dataclasses.asdict(row), "snr_change_db": row.snr_change_db} for row in found.rows]


def what_if(
    trace: Trace,
    *,
    recipe: str = "",
    format: str = "",  # noqa: A002 - the word of the command line and of Transformer Engine
    margin: int | None = None,
    history: int | None = None,
    algorithm: str = "",
    power_of_two: bool | None = None,
) -> WhatIf:
    """What a recipe (`current`, `delayed`, `block`, `mxfp8`), format (`E4M3`, `E5M2`, `HYBRID`) or margin would have done.

    What is not given is as it ran. `history` and `algorithm` (`max`, `most_recent`) are those of delayed scaling.
    Raises `UsageError` for what makes no sense of this recording, `InputError` where histograms were not recorded.
    """
    settings = Settings(recipe, format, margin, history, algorithm, power_of_two)
    every = tensors(trace)
    if not trace.has("fp8_histograms"):
        why = "no histogram was recorded: nothing was quantized, or --no-fp8-histogram was given"
        raise InputError(f"{trace.metadata.source}: {why}; record again with `tetrace record --fp8`")
    if settings.recipe in BLOCK_WISE and not trace.rows("fp8_blocks"):
        raise InputError(
            f"{trace.metadata.source}: amaxes of blocks were not recorded; record with `tetrace record --fp8 --fp8-blocks`"
        )
    case = Case(trace, every, settings)
    found = case.predicted()
    rows = _summed(case, found)
    return WhatIf(settings, rows, case.unanswered, case.wanted_history, case.sampled)


def _summed(case: Case, found: Predicted) -> tuple[Row, ...]:
    """One row a tensor, summed over its observations; the worst first."""
    rows = case.every.take(found.rows)
    order = np.argsort(rows.tensor, kind="stable")
    summed = [_row(rows, found, order[begin:end]) for begin, end in groups(rows.tensor[order])]
    return tuple(sorted(summed, key=lambda row: (-(row.saturated_upper + row.flushed_upper), row.snr_db)))


def _row(rows: Rows, found: Predicted, mine: Places) -> Row:
    module, role = rows.keys[int(rows.tensor[mine[0]])]
    elements, kept = int(rows["elements"][mine].sum()), max(float(nonzero(rows)[mine].sum()), 1.0)
    signal = float((rows["mean_square"] * (rows["elements"] - non_finite(rows)))[mine].sum())
    lost = (found.saturated_upper + found.flushed_upper)[mine] / np.maximum(rows["elements"][mine], 1)
    return Row(
        module=module,
        role=role,
        ran_recipe=rows.text("scaling", int(mine[0])),
        ran_format=rows.text("format", int(mine[0])),
        recipe=found.recipe[int(mine[0])],
        format=_NAMES[int(found.kind[mine[0]])],
        steps=len(np.unique(rows["step"][mine])),
        elements=elements,
        amax=float(rows["amax"][mine].max()),
        ran_saturated=_share(rows["saturated"][mine], max(elements, 1)),
        saturated_lower=float(found.saturated[mine].sum()) / max(elements, 1),
        saturated_upper=float(found.saturated_upper[mine].sum()) / max(elements, 1),
        ran_flushed=_share(rows["flushed"][mine], kept),
        flushed_lower=float(found.flushed[mine].sum()) / kept,
        flushed_upper=float(found.flushed_upper[mine].sum()) / kept,
        ran_snr_db=decibels(signal, float(rows["squared_error"][mine].sum())),
        snr_db=decibels(signal, float(found.error[mine].sum())),
        worst_step=int(rows["step"][mine][int(lost.argmax())]),
        history=int(found.history[mine].max()),
    )


def _share(counts: Places, whole: float) -> float:
    """Share of a whole; NaN where it was not counted."""
    return float(counts.sum()) / whole if (counts >= 0).all() else float("nan")


def decibels(signal: float, error: float) -> float:
    """Signal to noise ratio in dB; infinite where there is no error, NaN where either is not known."""
    if np.isnan(signal) or np.isnan(error):
        return float("nan")
    if error <= 0:
        return float("inf")
    return 10 * float(np.log10(signal / error)) if signal > 0 else float("-inf")
