"""Tables of a report for programs: configurations.csv and claims.csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tetrace.report import plain
from tetrace.report.grid import printable
from tetrace.study.claims import Judged
from tetrace.study.material import Material
from tetrace.study.statistics import Estimate

CLAIM_COLUMNS = (
    "claim", "verdict", "figure", "of", "against", "noted", "value", "low", "high", "word",
    "limit", "why", "study",
)  # fmt: skip


def configurations(material: Material) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """All configurations as a table for programs: times in ns, empty where they were not measured."""
    times_of = ("total", *material.phases)
    columns = [
        "configuration", "matrix", "state", "rounds", "tokens", "flops", "parameters", "peak_allocated_bytes",
        "first_step_ns", "first_step_beside", "first_loss", "last_loss", "first_nonfinite_step", "recording", "against",
        *(f"{name}_ns{end}" for name in times_of for end in ("", "_low", "_high")), "speedup", "speedup_low", "speedup_high",
        "measured_otherwise",
    ]  # fmt: skip
    rows = []
    for one in material.configurations:
        base = material.baseline(one.name)
        found = {
            "configuration": one.name, "matrix": one.matrix, "state": one.state, "rounds": len(one.rounds),
            "tokens": one.tokens, "flops": one.flops, "parameters": one.parameters,
            "peak_allocated_bytes": one.peak_allocated_bytes, "first_step_ns": one.first_step_ns,
            "first_step_beside": None if one.first_step_ns is None else one.first_step_beside,
            "first_loss": one.losses.first, "last_loss": one.losses.last,
            "first_nonfinite_step": one.losses.first_nonfinite_step, "recording": one.recording, "against": base,
        }  # fmt: skip
        for name in times_of:
            found |= _with_ends(f"{name}_ns", material.time(one.name, name))
        found |= _with_ends("speedup", material.speedup(one.name, base) if base else None)
        found["measured_otherwise"] = material.odd(one.name) or None
        rows.append(found)
    return tuple(columns), rows


def _with_ends(name: str, found: Estimate | None) -> dict[str, Any]:
    return {name: found and found.value, f"{name}_low": found and found.low, f"{name}_high": found and found.high}


def claim_row(one: Judged) -> dict[str, Any]:
    """A claim with its verdict, by CLAIM_COLUMNS."""
    number = one.value.estimate
    return {
        "claim": one.claim.says, "verdict": one.verdict, "figure": one.claim.figure, "of": one.claim.of,
        "against": one.claim.against, "noted": one.claim.noted, "value": number and number.value,
        "low": number and number.low, "high": number and number.high, "word": one.value.word, "limit": one.limit, "why": one.why,
        "study": one.claim.study or None,
    }  # fmt: skip


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, each on one line; None is empty. No text of them is a formula (`report/plain.py`)."""
    return plain.csv_text([one_line(name) for name in columns], ([row[name] for name in columns] for row in rows))


def one_line(value: Any) -> Any:
    """Texts without control characters, also those inside of lists and tables."""
    if isinstance(value, Mapping):
        return {key: one_line(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [one_line(one) for one in value]
    return printable(value) if isinstance(value, str) else value
