"""`tetrace fp8 checkpoint`: recipe, scales and amax histories in a checkpoint, and what is wrong with them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tetrace.cli.pages import Output, output_options
from tetrace.errors import UsageError

if TYPE_CHECKING:
    from tetrace.fp8.checkpoint import Checkpoint, ModuleState, TensorState
    from tetrace.report.grid import Grid
    from tetrace.report.page import Page

_COLUMNS = (
    "module", "class", "status", "recipe", "direction", "tensor", "format", "scale", "expected_scale", "newest_amax",
    "history_max", "history_length", "history_used", "infs", "nans", "flags",
)  # fmt: skip


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@click.option(
    "--allow",
    multiple=True,
    metavar="NAMES",
    help="Names that the checkpoint may hold beside those of torch and Transformer Engine, as a pattern: `megatron.*`. They "
    "are read as plain data, never imported. May be given again.",
)
@output_options
def checkpoint(source: Path, allow: tuple[str, ...], output: Output) -> None:
    """Show scales and amax histories of a checkpoint, what is wrong with them first.

    CHECKPOINT is a file of torch.save (.pt, .pth), a .safetensors, or a folder of torch.distributed.checkpoint. It is
    read without torch, and nothing in it is run: a checkpoint of unknown origin can be looked at.
    """
    from tetrace.fp8.checkpoint import read_checkpoint

    output.check(source)
    if (source / "metadata.json").is_file() and source.suffix == ".tetrace":
        raise UsageError(
            f"{source}: is a recording, not a checkpoint; see `tetrace fp8 health {shlex.quote(str(source))}`"
        )
    output.write(_page(read_checkpoint(source, allow=allow), output.rows, output.wide))


def _page(found: Checkpoint, top: int, wide: bool) -> Page:
    from tetrace.report.page import Page

    return Page(
        title=f"{Path(found.path).name} · {found.container} · {found.parameters} parameters and buffers",
        verdict=_verdict(found),
        grids=tuple(_grids(found, top)),
        said=tuple(_recipes(found)),
        advice=_advice(found),
        columns=_COLUMNS,
        rows=list(_rows(found)),
        facts={"container": found.container, "parameters": found.parameters, "modules": _modules(found)},
    )


def _verdict(found: Checkpoint) -> str:
    with_scales = [module for module in found.modules if module.tensors]
    missing = sum(module.status == "missing" for module in found.modules)
    if not found.modules:
        return "No FP8 state: no module has an _extra_state, and no parameter has a name of Transformer Engine's."
    words = f"{len(with_scales)} of {len(found.modules)} modules of Transformer Engine have scales and amax histories"
    if not with_scales and not missing:
        return f"{words}: their recipe keeps none, or they ran no FP8."
    flagged = len(found.flagged)
    wrong = f"something is wrong with {flagged}" if flagged else "nothing is wrong with them"
    without = f", {missing} {'is' if missing == 1 else 'are'} without an _extra_state" if missing else ""
    return f"{words}{without}; {wrong}."


def _recipes(found: Checkpoint) -> Iterator[str]:
    """Each recipe once, with its fields and how many modules have it."""
    by_words: dict[str, int] = {}
    for module in found.modules:
        if module.recipe:
            shown = {name: value for name, value in module.fields.items() if value is not None}
            fields = ", ".join(f"{name}={value}" for name, value in shown.items())
            words = f"{module.recipe}: {fields}" if fields else module.recipe
            by_words[words] = by_words.get(words, 0) + 1
    for words, count in by_words.items():
        yield f"{words} ({_counted(count, 'module')})"
    for direction in found.unused:
        yield f"no scale of {direction} was ever set: these states are from before the first {direction} in FP8"
    empty = sum(module.status == "empty" for module in found.modules)
    if empty:
        them = "it" if empty == 1 else "them"
        yield f"{_counted(empty, 'module')} with an empty state: a recipe that keeps none, or no FP8 in {them}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _advice(found: Checkpoint) -> tuple[str, ...]:
    words = []
    if any(tensor.infs or tensor.nans for module in found.modules for tensor in module.tensors):
        words.append(
            "An Inf or NaN in a history leaves the scale as it is until it has left the history: load the model without "
            "these states, or set the history to zero."
        )
    if any(module.status == "missing" for module in found.modules):
        words.append("Save model.state_dict() whole: filters that keep parameters only drop the _extra_state entries.")
    return tuple(words)


def _grids(found: Checkpoint, top: int) -> Iterator[Grid]:
    from tetrace.report.grid import Column, Grid

    wrong = [(module, flag) for module in found.modules for flag in module.flags]
    if wrong:
        shown = wrong[: top or None]
        columns = (Column("module", number=False, code=True), Column("class", number=False), Column("", number=False))
        rows = tuple((module.module or "(model)", module.kind or "-", flag) for module, flag in shown)
        yield Grid("Modules without their state", columns, rows, note=_more(len(wrong), len(shown)))
    lines = [(module, tensor) for module in found.modules for tensor in module.tensors if tensor.used or tensor.flags]
    lines.sort(key=lambda line: not line[1].flags)
    if lines:
        shown_lines = lines[: top or None]
        yield Grid(
            "Tensors, newest amax and largest of the history",
            (
                Column("module", number=False, code=True), Column("tensor", number=False), Column("format", number=False, keep=3),
                Column("scale"), Column("newest"), Column("largest"), Column("used", keep=2), Column("", number=False, keep=1),
            ),
            tuple(_line(module, tensor) for module, tensor in shown_lines),
            note=_more(len(lines), len(shown_lines)),
        )  # fmt: skip


def _more(count: int, shown: int) -> str:
    return f"{count - shown:,} more: --top 0 shows all" if count > shown else ""


def _line(module: ModuleState, tensor: TensorState) -> tuple[str, ...]:
    return (
        module.module or "(model)",
        tensor.tensor or tensor.direction,
        tensor.format,
        _number(tensor.scale),
        _number(tensor.newest),
        _number(tensor.history_max),
        f"{tensor.history_used}/{tensor.history_length}",
        "! " + "; ".join(tensor.flags) if tensor.flags else "",
    )


def _number(value: float) -> str:
    return f"{value:.4g}"


def _rows(found: Checkpoint) -> Iterator[dict[str, Any]]:
    """One row a tensor, and one for a module that has none."""
    for module in found.modules:
        own = {"module": module.module, "class": module.kind, "status": module.status, "recipe": module.recipe}
        if not module.tensors:
            yield {**dict.fromkeys(_COLUMNS), **own, "flags": "; ".join(module.flags)}
        for tensor in module.tensors:
            yield {
                **own,
                "direction": tensor.direction,
                "tensor": tensor.tensor,
                "format": tensor.format,
                "scale": tensor.scale,
                "expected_scale": tensor.expected_scale,
                "newest_amax": tensor.newest,
                "history_max": tensor.history_max,
                "history_length": tensor.history_length,
                "history_used": tensor.history_used,
                "infs": tensor.infs,
                "nans": tensor.nans,
                "flags": "; ".join((*module.flags, *tensor.flags)),
            }


def _modules(found: Checkpoint) -> list[dict[str, Any]]:
    return [
        {"module": module.module, "class": module.kind, "status": module.status, "recipe": module.recipe,
         "fields": dict(module.fields), "flags": list(module.flags)}
        for module in found.modules
    ]  # fmt: skip
