"""A budget: limits on the figures of a run, and on how far they may be from those of a baseline.

[limits]                       # of the run alone
step_ms = { max = 23.5 }
fp8_coverage_pct = { min = 95 }
attention_backend = "FusedAttention"

[baseline]                     # ratios to the run of --baseline
step_ms = { max_ratio = 1.015 }

[[rows]]                       # of any table of a breakdown: the sum of a column over the rows that fit
name = "MLP 0"
table = "modules"
where = { module = "layers.0.mlp" }
column = "total_ns"
max = 0.35                     # ns columns in ms, all per step
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tetrace.breakdown.figures import BY_NAME, WORD
from tetrace.breakdown.tables import DECLARATIONS, Declaration
from tetrace.breakdown.toml_text import parsed
from tetrace.errors import UsageError

LIMITS, BASELINE, ROWS = "limits", "baseline", "rows"
_SECTIONS = (LIMITS, BASELINE, ROWS)
_ROW_KEYS = ("name", "table", "where", "column", "max", "min")
# Where a baseline is given and the budget says nothing of it. Halfway to 3%, which ten steps with 1% of noise can tell.
STEP_RATIO = 1.015


@dataclass(frozen=True)
class Limit:
    """What a figure may be at most and at least; None: anything. `allowed` are words, of figures that are words."""

    most: float | None = None
    least: float | None = None
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowLimit:
    """A limit on the sum of a column over the rows of a table that have the values of `where`."""

    name: str
    table: str
    where: Mapping[str, str | int]
    column: str
    limit: Limit


@dataclass(frozen=True)
class Budget:
    """Limits by figure, limits of ratios to the baseline by figure, limits of rows."""

    limits: Mapping[str, Limit]
    baseline: Mapping[str, Limit]
    rows: tuple[RowLimit, ...]


def parse_budget(text: str, name: str) -> Budget:
    """The budget that a TOML text says. `name` is that of its file.

    Raises `InputError` for a text that is no TOML, `UsageError` for a key that is not known (with those that look like
    it) and for a limit that makes no sense.
    """
    return _Reader(name).budget(parsed(text, name, "`tetrace check --init RUN` writes one"))


class _Reader:
    """Reads one file; its name is in every error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def budget(self, document: Mapping[str, Any]) -> Budget:
        self._known(document, _SECTIONS, "section")
        limits = self._table(document.get(LIMITS, {}), f"[{LIMITS}]")
        ratios = self._table(document.get(BASELINE, {}), f"[{BASELINE}]")
        rows = document.get(ROWS, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UsageError(f"{self._name}: rows is a list of tables; write [[rows]] above each")
        self._known(limits, BY_NAME, f"figure in [{LIMITS}]")
        self._known(ratios, BY_NAME, f"figure in [{BASELINE}]")
        found = Budget(
            {figure: self._limit(figure, said) for figure, said in limits.items()},
            {figure: self._ratio(figure, said) for figure, said in ratios.items()},
            tuple(self._row(row, f"[[{ROWS}]] number {number}") for number, row in enumerate(rows, 1)),
        )
        if not (found.limits or found.baseline or found.rows):
            raise UsageError(f"{self._name}: limits nothing; `tetrace check --init RUN` writes limits from a run")
        return found

    def _limit(self, figure: str, said: Any) -> Limit:
        where = f"[{LIMITS}] {figure}"
        if BY_NAME[figure].unit == WORD:
            words = [said] if isinstance(said, str) else said
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                raise UsageError(
                    f'{self._name}: {where} = {_short(said)}; give a word or a list of words: "FusedAttention"'
                )
            return Limit(allowed=tuple(words))
        return self._range(said, where, "max", "min")

    def _ratio(self, figure: str, said: Any) -> Limit:
        where = f"[{BASELINE}] {figure}"
        if BY_NAME[figure].unit == WORD:
            raise UsageError(f"{self._name}: {where}: a word has no ratio; limit it in [{LIMITS}]")
        return self._range(said, where, "max_ratio", "min_ratio")

    def _range(self, said: Any, where: str, most: str, least: str) -> Limit:
        if not isinstance(said, dict) or not said:
            raise UsageError(f"{self._name}: {where} = {_short(said)}; give {{ {most} = ... }} or {{ {least} = ... }}")
        self._known(said, (most, least), f"key of {where}")
        bounds = [self._number(said.get(key), f"{where}.{key}") for key in (most, least)]
        limit = Limit(bounds[0], bounds[1])
        if limit.most is not None and limit.least is not None and limit.least > limit.most:
            raise UsageError(
                f"{self._name}: {where}: {least} {limit.least:g} is above {most} {limit.most:g}; swap them"
            )
        return limit

    def _number(self, said: Any, where: str) -> float | None:
        if said is None:
            return None
        if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
            raise UsageError(f"{self._name}: {where} = {_short(said)}; give a number")
        return float(said)

    def _row(self, said: Mapping[str, Any], where: str) -> RowLimit:
        self._known(said, _ROW_KEYS, f"key of {where}")
        tables = {declaration.name: declaration for declaration in DECLARATIONS}
        self._known([str(said.get("table"))], tables, f"table of {where}")
        declaration = tables[str(said["table"])]
        columns = {column.name: column.unit for column in declaration.columns}
        self._known([str(said.get("column"))], [name for name, unit in columns.items() if unit], f"column of {where}")
        conditions = self._table(said.get("where", {}), f"{where} where")
        self._known(conditions, columns, f"column of {where} where")
        limits = {key: said[key] for key in ("max", "min") if key in said}
        return RowLimit(
            name=str(said.get("name") or _row_name(declaration, conditions, said["column"])),
            table=declaration.name,
            where=conditions,
            column=said["column"],
            limit=self._range(limits, where, "max", "min"),
        )

    def _table(self, said: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(said, dict):
            raise UsageError(f"{self._name}: {where} = {_short(said)}; give a table of keys and values")
        return said

    def _known(self, keys: Iterable[str], known: Iterable[str], what: str) -> None:
        """Raise `UsageError` for a key that is not known, with those that look like it, or with all of few."""
        names = list(known)
        for key in keys:
            if key not in names:
                near = (
                    difflib.get_close_matches(key, names, 3, 0.5) or [name for name in names if key and key in name][:3]
                )
                there = "it may be" if len(names) <= 8 else "close to it are" if near else "among others there are"
                shown = names if len(names) <= 8 else near or names[:8]
                raise UsageError(f"{self._name}: no {what} is called {_short(key)}; {there} {', '.join(shown)}")


def _row_name(declaration: Declaration, where: Mapping[str, Any], column: str) -> str:
    return " ".join([declaration.name, *(str(value) for value in where.values()), column])


def _short(said: Any) -> str:
    """What the file says, for a line of text."""
    text = repr(said)
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
