"""`tetrace fp8 shapes`: dimensions of GEMMs that FP8 does not take, in a recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tetrace.cli.pages import Output, output_options

if TYPE_CHECKING:
    from tetrace.fp8.recorded_shapes import RecordedShapes
    from tetrace.fp8.shapes import ShapeRow
    from tetrace.report.grid import Grid
    from tetrace.report.page import Page

_COLUMNS = (
    "module", "module_class", "ran", "scaling", "gemm", "phase", "dimension", "value", "divisor", "padded", "error",
)  # fmt: skip
_RECIPES = ("delayed", "current", "block", "mxfp8", "nvfp4")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=click.Choice(_RECIPES),
    help="Check against this recipe.  [default: the one that each module ran with]",
)
@output_options
def shapes(run: Path, recipe: str | None, output: Output) -> None:
    """Show which GEMMs have dimensions that FP8 refuses, and what to pad them to.

    Forward, dgrad and wgrad of every linear of Transformer Engine are checked, also of a run in BF16 or one that failed:
    one GEMM that was recorded says the dimensions of all three. RUN is what `tetrace record` left.
    """
    import tetrace
    from tetrace.fp8.recorded_shapes import recorded_shapes

    output.check(run)
    found = recorded_shapes(tetrace.load(run), recipe)
    output.write(_page(run.name, found, output.rows))


def _page(name: str, found: RecordedShapes, top: int) -> Page:
    from tetrace.fp8.shape_rules import is_of_later_gpus
    from tetrace.report.page import Page

    report = found.report
    gpu = f"compute capability {report.capability // 10}.{report.capability % 10}"
    notices = ["No recipe was recorded: checked as DelayedScaling; --recipe chooses another."] if found.assumed else []
    if newer := [one for one in _scalings(found) if is_of_later_gpus(one, report.capability)]:
        notices.append(f"{', '.join(newer)} scaling needs compute capability 10.0: only the shapes were checked.")
    return Page(
        title=f"{name} · Transformer Engine {report.version} · {gpu}",
        verdict=_verdict(found),
        grids=tuple(_grids(found, top)),
        advice=tuple(_advice(found)),
        notices=tuple(notices),
        columns=_COLUMNS,
        rows=[_row(found, row) for row in report.rows],
        facts={"transformer_engine": report.version, "capability": report.capability},
    )


def _scalings(found: RecordedShapes) -> list[str]:
    return list(dict.fromkeys(row.scaling for row in found.report.rows))


def _verdict(found: RecordedShapes) -> str:
    rows, failures = found.report.rows, found.report.failures
    scalings = ", ".join(_scalings(found))
    numbers = "FP4" if scalings == "nvfp4" else "FP8"
    modules = len({row.module for row in rows})
    if not failures:
        return f"All dimensions of the GEMMs of {modules} modules fit {numbers} with {scalings} scaling."
    failing = len({row.module for row in failures})
    phases = " and ".join(dict.fromkeys(row.phase for row in failures))
    return (
        f"{failing} of {modules} modules have dimensions that {numbers} with {scalings} scaling refuses, in {phases}."
    )


def _grids(found: RecordedShapes, top: int) -> Iterator[Grid]:
    from tetrace.report.grid import Column, Grid

    failures = found.report.failures
    if not failures:
        return
    shown = failures[: top or None]
    left = len(failures) - len(shown)
    columns = (
        Column("module", number=False, code=True),
        Column("GEMM", number=False),
        Column("dimension", number=False),
        Column("is"),
        Column("divisible by"),
        Column("use"),
        Column("ran in", number=False, keep=1),
    )
    yield Grid(
        "Dimensions that FP8 refuses",
        columns,
        tuple(_words(found, row) for row in shown),
        note=f"{left:,} more: --top 0 shows all" if left else "",
    )


def _words(found: RecordedShapes, row: ShapeRow) -> tuple[str, ...]:
    return (
        row.module or "(model)", row.gemm, row.dimension, str(row.value), str(row.divisor), str(row.padded),
        _ran(found, row) or "-",
    )  # fmt: skip


def _advice(found: RecordedShapes) -> Iterator[str]:
    errors = dict.fromkeys(row.error for row in found.report.failures)
    yield from (f"Transformer Engine {found.report.version} raises {error}" for error in errors)
    if any(row.dimension == "tokens" for row in found.report.failures):
        yield "Tokens are batch x sequence: pad the batch, or the rows of each expert with te.Fp8Padding."
    if any(row.dimension == "out_features" for row in found.report.failures):
        yield "Pad a vocabulary with rows that no token uses; the loss masks their logits."


def _ran(found: RecordedShapes, row: ShapeRow) -> str:
    """Formats that this GEMM ran in; empty where it was not recorded."""
    formats = [
        by_role.get(row.gemm, "")
        for (module, *dimensions), by_role in found.formats.items()
        if module == row.module and row.value in dimensions
    ]
    return next((one for one in formats if one), "")


def _row(found: RecordedShapes, row: ShapeRow) -> dict[str, Any]:
    values = {**dataclasses.asdict(row), "ran": _ran(found, row)}
    return {name: values[name] for name in _COLUMNS}
