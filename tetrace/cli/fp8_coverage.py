"""`tetrace fp8 coverage`: which modules ran their GEMMs outside FP8, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tetrace.cli.pages import Output, output_options
from tetrace.errors import UsageError
from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table
    from tetrace.report.grid import Grid
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--steps",
    default="steady",
    show_default=True,
    metavar="WHICH",
    help="Steps to count, as in `tetrace report`.",
)
@output_options
def coverage(run: Path, steps: str, output: Output) -> None:
    """Show which modules ran GEMMs outside FP8 and why: each with its share of GEMM time.

    Modules under autocast whose GEMMs ran in BF16, modules outside autocast, linears of torch, and norms that leave the
    cast to the linear behind them. What was around a module is known of recordings of `tetrace record`.
    """
    import tetrace

    output.check(run)
    trace = tetrace.load(run)
    breakdown = tetrace.analyze(trace, steps=steps)
    if not breakdown.fp8_coverage.gemm_ns:
        raise UsageError(_no_gemm(run, trace, steps))
    output.write(_page(run.name, breakdown, output.rows))


def _no_gemm(run: Path, trace: Trace, steps: str) -> str:
    if not trace.rows("activities"):
        return f"{run}: no GPU was recorded, so no GEMM; record on the machine with the GPU"
    more = "" if steps == "all" else f" in --steps {steps}; --steps all counts every step"
    return f"{run}: no GEMM ran on the GPU{more}"


def _page(name: str, breakdown: Breakdown, top: int) -> Page:
    from tetrace.breakdown.fp8_coverage import fp8_coverage, fp8_norms
    from tetrace.report.page import Page

    modules, norms = fp8_coverage(breakdown), fp8_norms(breakdown)
    has_classes = bool(breakdown.attribution.trace.rows("sites"))
    notice = "What was around modules is not in this recording: `tetrace record` notes autocasts and classes."
    return Page(
        title=name,
        verdict=_verdict(breakdown, modules),
        grids=tuple(_grids(breakdown, modules, norms, top)),
        notices=() if has_classes else (notice,),
        advice=tuple(_advice(modules, norms)),
        columns=(*modules.columns, "norm"),
        rows=list(_rows(modules, norms)),
        facts={"norms": norms.rows(), "steps": breakdown.totals.steps},
    )


def _verdict(breakdown: Breakdown, modules: Table) -> str:
    covered = breakdown.fp8_coverage
    words = f"{percent(covered.fp8_ns, covered.gemm_ns)} of GEMM time is FP8"
    outside = [row for row in modules.rows() if row["gemm_ns"] > row["fp8_ns"] + row["unknown_ns"]]
    if covered.unknown_ns:
        words += f", {percent(covered.unknown_ns, covered.gemm_ns)} of GEMM time does not tell its format"
    if not outside:
        return f"{words}; no module ran a GEMM in another format."
    longest: dict[str, int] = {}
    for row in outside:
        longest[row["status"]] = longest.get(row["status"], 0) + _outside(row)
    reasons = sorted(longest.items(), key=lambda item: -item[1])
    return f"{words}; outside it: {', '.join(f'{why} {percent(ns, covered.gemm_ns)}' for why, ns in reasons)}."


def _outside_words(row: dict[str, Any]) -> str:
    """Formats of a module's GEMMs outside FP8; with their roles where others of it ran in FP8."""
    by_formats: dict[str, list[str]] = {}
    for gemm in filter(None, row["outside"].split(", ")):
        role, _, formats = gemm.rpartition(" ")
        by_formats.setdefault(formats, []).extend([role] if role and row["fp8_ns"] else [])
    return ", ".join(" ".join([formats, *sorted(roles)]) for formats, roles in by_formats.items())


def _outside(row: dict[str, Any]) -> int:
    return int(row["gemm_ns"] - row["fp8_ns"] - row["unknown_ns"])


def _grids(breakdown: Breakdown, modules: Table, norms: Table, top: int) -> Iterator[Grid]:
    each = " a step" if breakdown.selection.per_step else ""
    if len(modules):
        yield _modules_grid(breakdown, modules, top, each)
    if len(norms):
        yield _norms_grid(breakdown, norms, top, each)


def _modules_grid(breakdown: Breakdown, modules: Table, top: int, each: str) -> Grid:
    from tetrace.report.grid import Column, Grid

    steps, whole = max(breakdown.totals.steps, 1), breakdown.fp8_coverage.gemm_ns
    shown = modules.rows()[: top or None]
    columns = (
        Column("module", number=False, code=True), Column("class", number=False, keep=2),
        Column("autocast", number=False, keep=3), Column(f"GEMMs{each}"), Column("of GEMM time"), Column("FP8"),
        Column("why", number=False, least=24), Column("outside", number=False, keep=1),
    )  # fmt: skip
    rows = tuple(
        (
            row["module"], row["class"], row["autocast"], duration(row["gemm_ns"] / steps), percent(row["gemm_ns"], whole),
            percent(row["fp8_ns"], row["gemm_ns"]), "" if row["status"] == "FP8" else row["status"], _outside_words(row),
        )
        for row in shown
    )  # fmt: skip
    title = "Modules with GEMMs, the longest outside FP8 first"
    return Grid(title, columns, rows, note=_more(len(modules), len(shown)))


def _norms_grid(breakdown: Breakdown, norms: Table, top: int, each: str) -> Grid:
    from tetrace.report.grid import Column, Grid

    steps, whole = max(breakdown.totals.steps, 1), breakdown.fp8_coverage.gemm_ns
    shown = norms.rows()[: top or None]
    columns = (
        Column("norm", number=False, code=True), Column("linear", number=False, code=True), Column(f"norm{each}"),
        Column(f"casts{each}"), Column("linear, of GEMM time"),
    )  # fmt: skip
    rows = tuple(
        (
            f"{row['norm']} ({row['class']})", row["linear"], duration(row["norm_ns"] / steps),
            duration(row["cast_ns"] / steps), percent(row["gemm_ns"], whole),
        )
        for row in shown
    )  # fmt: skip
    title = "Norms that leave the cast to the linear behind them"
    return Grid(title, columns, rows, note=_more(len(norms), len(shown)))


def _more(count: int, shown: int) -> str:
    return f"{count - shown:,} more: --top 0 shows all" if count > shown else ""


def _advice(modules: Table, norms: Table) -> Iterator[str]:
    from tetrace.breakdown.fp8_coverage import ADVICE

    for status in dict.fromkeys(modules["status"]):
        if status in ADVICE:
            yield f"{status[0].upper()}{status[1:]}: {ADVICE[status]}."
    if len(norms):
        yield "Norms: LayerNormLinear and LayerNormMLP normalize and cast in one kernel."


def _rows(modules: Table, norms: Table) -> Iterator[dict[str, Any]]:
    """One row a module, with the norm whose result it casts."""
    before = dict(zip(norms["linear"], norms["norm"], strict=True))
    for row in modules.rows():
        yield {**row, "norm": before.get(row["module"], "")}
