"""What the slices of a timeline are called, and what is noted of them: one label for all slices that say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.distinct import distinct, values_and_codes
from tetrace.attribute.roles import ROLES
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.selection import Selection
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Rows = npt.NDArray[np.int64]

RANGE, CALL, STEP = "range", "cuda_api", "step"
# What the site of a recorded call says of the activities that it launched, and which sites are such calls.
_RECORDED = ("quantize", "gemm", "attention", "scale_update")
_OF_SITE = ("format", "shape", "dtype")
_OF_RANGE = ("kind", "class", "role", *_OF_SITE)
_SIZES = ("registers", "shared_bytes", "bytes")


@dataclass(frozen=True)
class Label:
    """A slice's name and category, and what is noted of it: names and values, without what is not known.

    The category of an activity is that of the report, of others RANGE, CALL or STEP.
    """

    name: str
    category: str
    notes: tuple[tuple[str, str | int], ...]


@dataclass(frozen=True)
class Labels:
    """Distinct labels, and which one each row has, shape (rows,)."""

    labels: tuple[Label, ...]
    of_row: Codes


def of_activities(attribution: Attribution, rows: Rows) -> Labels:
    """Labels of these activities."""
    trace, host = attribution.trace, attribution.host
    site = _site_of_call(attribution)[rows] if len(host) else np.full(len(rows), -1, np.int32)
    dimensions = [trace.column("activities", f"{of}_{axis}")[rows] for of in ("grid", "block") for axis in "xyz"]
    sizes = [trace.column("activities", name)[rows] for name in _SIZES]
    (name, kernel, phase, module, role, call, *launch), of_row = _combined(
        trace.column("activities", "name")[rows],
        attribution.kernel_class[rows],
        attribution.phase[rows],
        attribution.module[rows],
        attribution.role[rows],
        site,
        *dimensions,
        *sizes,
    )
    names, said = trace.words("activities", "name"), _words_of_sites(trace, _OF_SITE)
    labels = []
    columns = (name, kernel, phase, module, role, call, *launch)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        one = attribution.classes[row[1]]
        of_call = said[row[5]] if row[5] >= 0 else {}
        notes = {
            "phase": PHASES[row[2]],
            "module": attribution.module_names[row[3]] if row[3] >= 0 else "",
            "category": one.category,
            "operation": one.operation,
            "role": ROLES[row[4]] if row[4] >= 0 else "",
            "format": one.formats or of_call.get("format", ""),
            "shape": of_call.get("shape", ""),
            "dtype": of_call.get("dtype", ""),
            "quantizes_too": "yes" if one.fused_quantization else "",
            "grid": _dimensions(row[6:9]),
            "block": _dimensions(row[9:12]),
            **dict(zip(_SIZES, row[12:], strict=True)),
        }
        labels.append(Label(names[row[0]], one.category, _known(notes)))
    return Labels(tuple(labels), of_row)


def of_ranges(attribution: Attribution, rows: Rows) -> Labels:
    """Labels of these ranges, rows of `Host`."""
    trace, host = attribution.trace, attribution.host
    if not len(rows):
        return Labels((), np.empty(0, np.int32))
    kind = trace.column("ranges", "kind")[host.row[rows]]
    columns, of_row = _combined(
        host.word[rows], host.site[rows], kind, attribution.range_phase[rows], attribution.range_module[rows]
    )
    kinds, said = trace.words("ranges", "kind"), _words_of_sites(trace, _OF_RANGE)
    labels = []
    for word, site, code, phase, module in zip(*(column.tolist() for column in columns), strict=True):
        notes = {
            "kind": kinds[code],
            "phase": PHASES[phase] if phase >= 0 else "",
            "module": attribution.module_names[module] if module >= 0 else "",
            **(said[site] if site >= 0 else {}),
        }
        labels.append(Label(host.words[word], RANGE, _known(notes)))
    return Labels(tuple(labels), of_row)


def of_calls(attribution: Attribution, rows: Rows) -> Labels:
    """Labels of these rows of the trace's calls."""
    trace = attribution.trace
    (name, kind), of_row = _combined(*(trace.column("calls", column)[rows] for column in ("name", "kind")))
    names, kinds = trace.words("calls", "name"), trace.words("calls", "kind")
    pairs = zip(name.tolist(), kind.tolist(), strict=True)
    return Labels(tuple(Label(names[one], CALL, (("kind", kinds[code]),)) for one, code in pairs), of_row)


def of_windows(attribution: Attribution, selection: Selection) -> Labels:
    """Labels of the windows that are used, in their order."""
    used = np.flatnonzero(selection.used)
    number = attribution.steps.number[selection.windows.step[used]]
    values, of_row = values_and_codes(number)
    return Labels(tuple(Label(f"step {one}", STEP, ()) for one in values.tolist()), of_row.astype(np.int32))


def _combined(*columns: npt.NDArray[np.integer]) -> tuple[list[npt.NDArray[np.integer]], Codes]:
    """The distinct rows of columns of any integers, and the place of each row among them."""
    of_row = np.zeros(len(columns[0]), np.int32)
    for column in columns:
        _, of_row = distinct(of_row, values_and_codes(column)[1])
    first = np.zeros(int(of_row.max(initial=-1)) + 1, np.int64)
    first[of_row[::-1]] = np.arange(len(of_row))[::-1]
    return [column[first] for column in columns], of_row


def _site_of_call(attribution: Attribution) -> Codes:
    """Of each activity, the site of the innermost recorded call around its launch, -1 none."""
    host, links = attribution.host, attribution.links
    site = host.inherit(np.where(host.is_kind(*_RECORDED), host.site, -1))
    return np.where(links.range >= 0, site[np.maximum(links.range, 0)], -1).astype(np.int32)


def _words_of_sites(trace: Trace, names: Sequence[str]) -> list[dict[str, str]]:
    """What every site says under each of `names`."""
    columns = [[trace.words("sites", n)[code] for code in trace.column("sites", n).tolist()] for n in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _dimensions(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes)) if min(sizes) >= 0 else ""


def _known(notes: dict[str, str | int]) -> tuple[tuple[str, str | int], ...]:
    return tuple(_told(notes))


def _told(notes: dict[str, str | int]) -> Iterator[tuple[str, str | int]]:
    for name, value in notes.items():
        if value != "" and value != -1:
            yield name, value
