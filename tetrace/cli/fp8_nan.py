"""`tetrace fp8 nan`: the first tensor that was not finite."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli import fp8_words as words
from tetrace.cli.pages import Output, output_options
from tetrace.units import plural

if TYPE_CHECKING:
    from tetrace.fp8.origins import NonFinite, Origin, Seen
    from tetrace.report.grid import Grid
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@output_options
def nan(run: Path, output: Output) -> None:
    """Find the first NaN or Inf: the tensor, the operation that made it, and what it read.

    Where the operation that made it was not observed, the answer is between which two observations it lies.
    """
    import tetrace
    from tetrace.fp8.nonfinite import find_nonfinite

    output.check(run)
    trace = tetrace.load(run)
    output.write(page(run, trace, find_nonfinite(trace), output.rows))


def page(run: Path, trace: Trace, found: NonFinite, top: int) -> Page:
    """The story of the first origin, and a table of the others."""
    from tetrace.fp8.origins import COLUMNS, rows_of
    from tetrace.report.page import Page

    looked = f"{found.observations:,} observations", found.seen
    origins = found.origins
    return Page(
        title=words.title(trace, *looked),
        verdict=_verdict(found),
        said=tuple(_story(origins[0])) if origins else (),
        grids=(_others(found, top),) if len(origins) > 1 else (),
        advice=tuple(_advice(origins[0], run)) if origins else (),
        notices=(*words.notices(trace), *_notices(found)),
        columns=COLUMNS,
        rows=rows_of(found),
        facts={"checked": found.checked, "steps": list(found.steps), "switched_off": found.switched_off},
    )


_UNCHECKED = "only what is quantized was looked at: outputs, loss, gradients and parameters were not checked"


def _notices(found: NonFinite) -> Iterator[str]:
    """What was not looked at, where the first bad tensor is."""
    if not found.checked:
        yield _UNCHECKED
    if found.origins and found.origins[0].compiled:
        yield (
            f"{found.origins[0].compiled} is compiled: what is inside it was not observed; record once without torch.compile "
            "to see which of its modules it was"
        )


def _advice(origin: Origin, run: Path) -> Iterator[str]:
    from tetrace.fp8.nonfinite_advice import advice

    said = advice(origin)
    yield f"{said[0].upper()}{said[1:]}."
    yield f"Its history: tetrace fp8 tensor {shlex.quote(str(run))} {shlex.quote(origin.tensor.name)}"


def _verdict(found: NonFinite) -> str:
    if not found.origins:
        none = f"no NaN and no Inf in {found.observations:,} observations of {found.seen}"
        if found.switched_off is None:
            return f"All finite: {none}."
        return f"Finite as far as inspection went: it switched itself off in step {found.switched_off}; {none}."
    from tetrace.fp8.origins import counts

    origin = found.origins[0]
    seen = origin.tensor
    rank = f" on {origin.rank}" if origin.rank else ""
    return f"The first that is not finite is {seen.name} at step {seen.step}{rank}: {counts(seen)}."


def _story(origin: Origin) -> Iterator[str]:
    seen = origin.tensor
    yield _what(seen) + (f", in {origin.dtype}" if origin.dtype else "")
    if origin.made_by:
        yield f"made by: {origin.made_by}"
        for read in origin.read:
            yield f"  it read {read.name}: {_state(read)}"
        if not origin.read:
            yield "  what it read was not observed"
    elif seen.role.endswith("gradient"):
        yield from _in_backward(origin)
    elif origin.before:
        at = "" if origin.before.step == seen.step else f" of step {origin.before.step}"
        yield f"made between {origin.before.name}{at} ({_state(origin.before)}) and {seen.name}: {_in_between(seen)}"
    else:
        yield "made before the first observation" + (
            f" on {origin.rank}" if origin.received_from else ": it was so from the start of the recording"
        )
    if origin.received_from:
        hold = "which holds" if len(origin.received_from) == 1 else "which hold"
        yield (
            f"{origin.rank} may have received it from {origin.senders}, {hold} other modules: it is the first that "
            f"{origin.rank} reads in {seen.phase}"
        )
    for before, after in origin.parameters:
        yield f"  its {_parameter(before, after)}"
    if origin.before_amax:
        grown = ", ".join(f"{words.number(amax)} (step {step})" for step, amax in origin.before_amax)
        yield f"its amax in the steps before: {grown}"
    if origin.next:
        yield "then: " + ", ".join(one.name for one in origin.next)
    until = "" if origin.last_step == seen.step else f", until step {origin.last_step}"
    yield f"{origin.tensors:,} tensor{'' if origin.tensors == 1 else 's'} in all{until}"


def _what(seen: Seen) -> str:
    """What the tensor is, and when it was read."""
    kind = seen.role.rpartition(".")[2]
    read = {
        "gradient": "gradient, read before optimizer.step()",
        "parameter": "parameter, read after optimizer.step()",
        "loss": "loss, read when backward() was called",
    }
    if kind in read:
        return read[kind]
    if kind == "output":
        return f"output of {seen.operation or 'a module'}, read after its {seen.phase or 'forward'}"
    when = f"in {seen.phase}" if seen.phase else "in an unknown phase"
    return f"{seen.role}, read {when}" + (f" by {seen.operation}" if seen.operation else "")


def _in_backward(origin: Origin) -> Iterator[str]:
    """Between what a gradient was made that is the first that is not finite, as far as the others tell."""
    seen, last = origin.tensor, origin.before
    since = f"between {last.name} ({_state(last)}) and" if last else "before"
    yield f"made {since} the optimizer's step, before which all gradients are read together"
    bad, among = origin.gradients
    own = f"{seen.module}'s"
    if not origin.place_known and among > 1:
        yield f"where backward made {own} is not known: of those that are not finite it is the last in parameters' order"
    elif origin.backward_before:
        *more, last_one = origin.backward_before
        many = f"{last_one}.*" if not more else f"{last_one}.* and of {plural(len(more), 'module')} before it"
        yield f"gradients of {many} are finite, {own} is the first in backward's order that is not: " + (
            "those after it are finite again" if origin.alone else "look between them"
        )
    elif among > 1:
        yield f"{own} is the first in backward's order" + (", those after it are finite" if origin.alone else "")
    if among > 1:
        clipped = bad == among and origin.wholly
        yield f"{bad:,} of {among:,} gradients {'is' if bad == 1 else 'are'} not finite" + (
            ", NaN in all elements: so clip_grad_norm_ leaves them where one was, and then which is not known"
            if clipped
            else ""
        )


def _parameter(before: Seen | None, after: Seen | None) -> str:
    """A parameter that the forward read without being looked at in it."""
    known = before or after
    assert known is not None  # it is known by one of the two
    if before:
        seen = f"{_state(before)}, when last read before this forward, after step {before.step}"
    else:
        seen = "not read before this forward"
    return f"{known.name}: {seen}" + (f"; {_state(after)} when read after it, at the end of its step" if after else "")


def _in_between(seen: Seen) -> str:
    """What can have made a tensor whose operation was not observed."""
    if seen.role == "output":
        return f"in the forward of {seen.module} ({seen.operation}), or just before it"
    return "not observed in between"


def _state(seen: Seen) -> str:
    from tetrace.fp8.origins import counts, looked_at

    if not seen.finite:
        return counts(seen)
    partly = f" in the {looked_at(seen)}" if seen.sampled else ""
    return f"finite{partly}" if seen.amax != seen.amax else f"finite{partly}, amax {words.number(seen.amax)}"


def _others(found: NonFinite, top: int) -> Grid:
    """Every stretch of steps that begins with a finite one."""
    from tetrace.report.grid import Column, Grid

    shown = found.origins[: words.first(top, len(found.origins))]
    columns = (
        Column("step"),
        Column("tensor", number=False, code=True),
        Column("NaN"),
        Column("Inf"),
        Column("tensors"),
        Column("made by", number=False),
    )
    rows = tuple(
        (
            words.steps(one.tensor.step, one.last_step, one.last_step - one.tensor.step + 1),
            one.tensor.name,
            f"{one.tensor.nans:,}",
            f"{one.tensor.infs:,}",
            f"{one.tensors:,}",
            one.made_by or one.after,
        )
        for one in shown
    )
    title = "Each time that it begins, after a step in which all was finite"
    return Grid(title, columns, rows, note=words.note(len(found.origins) - len(shown)))
