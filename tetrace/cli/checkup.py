"""How `tetrace doctor` writes what it found: a screen of lines, or JSON."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tetrace import __version__
from tetrace.report.grid import Column, Grid, printable
from tetrace.report.plain import json_text
from tetrace.units import duration, three_digits

if TYPE_CHECKING:
    from tetrace.record.doctor import Diagnosis
    from tetrace.record.finding import Finding

_NARROWEST, _WIDEST = 60, 110
_HEAD, _STRONG, _FAINT = "bold cyan", "bold", "dim"
_LABELS = {"ok": "ok", "warn": "warn", "fail": "FAIL", "absent": "-"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "absent": "dim"}
# Columns of a label with the space around it.
_INDENT = 7
_COLLECTORS = {
    "nsys": "A recording here is made with nsys",
    "cupti": "A recording here is made with tetrace's own collector",
    "host": "A recording here has the host's times only",
}

# A line is pieces of text, each with a style of rich, empty for none.
Line = list[tuple[str, str]]


def as_json(diagnosis: Diagnosis) -> str:
    """`{"tetrace", "possible", "collector", "findings": [{"section", "level", "title", "detail", "way_out"}]}`."""
    findings = [{"section": section, **asdict(finding)} for section, found in diagnosis.sections for finding in found]
    head = {"tetrace": __version__, "possible": diagnosis.possible, "collector": diagnosis.collector}
    return json_text({**head, "findings": findings})


def screen(diagnosis: Diagnosis, width: int, color: bool) -> str:
    """The verdict, then all findings by section, each with its way out below it."""
    width = min(max(width, _NARROWEST), _WIDEST)
    lines: list[Line] = [*_wrapped(_verdict(diagnosis), width, 0, _STRONG)]
    for title, findings in diagnosis.sections:
        if findings:
            lines += [[], [(title, _HEAD)]]
            for finding in findings:
                lines += _finding(finding, width)
    return _rendered(lines, color)


def _verdict(diagnosis: Diagnosis) -> str:
    stopping = [finding for finding in diagnosis.findings if finding.level == "fail"]
    spoiling = sum(finding.level == "warn" for finding in diagnosis.findings)
    warnings = f"{spoiling} warning{'s' if spoiling > 1 else ''}"
    if stopping:
        names = ", ".join(dict.fromkeys(finding.title for finding in stopping))
        return f"No full recording is possible here: {names}" + (f"; {warnings} besides" if spoiling else "")
    return _COLLECTORS[diagnosis.collector] + (f"; {warnings}" if spoiling else ", and nothing found would spoil it")


def _finding(finding: Finding, width: int) -> Iterator[Line]:
    label = _LABELS[finding.level]
    text = _wrapped(f"{finding.title}: {finding.detail}", width, _INDENT, "" if finding.level != "absent" else _FAINT)
    first, *more = text
    # The wrapped line begins with the space in which the label goes.
    yield [(f"  {label:<{_INDENT - 2}}", _STYLES[finding.level]), (first[0][0][_INDENT:], first[0][1])]
    yield from more
    if finding.way_out:
        lines = _wrapped(f"→ {finding.way_out}", width, _INDENT, _FAINT if finding.level == "absent" else "bold")
        yield from lines


def _wrapped(text: str, width: int, indent: int, style: str) -> list[Line]:
    space = " " * indent
    lines = textwrap.wrap(printable(text), width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
    return [[(line, style)] for line in lines]


def calibration_screen(measured: Mapping[str, Any], width: int, color: bool) -> str:
    """What was measured, as a table, and under which conditions."""
    width = min(max(width, _NARROWEST), _WIDEST)
    head = f"{measured['device']}, torch {measured['versions']['torch']}, driver {measured['versions']['driver']}"
    grid = Grid(
        "", (Column("measured", number=False), Column("best"), Column("how", number=False)), tuple(_rows(measured))
    )
    names, *rows = grid.lines(width)
    lines: list[Line] = [*_wrapped(head, width, 0, _STRONG), [], [(names, _FAINT)], *([(row, "")] for row in rows), []]
    for text in _conditions(measured):
        lines += _wrapped(text, width, 0, _FAINT)
    return _rendered(lines, color)


def _rows(measured: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, key, how in (
        ("copy within the device", "copy_bytes_per_s", "bytes read and written"),
        ("read", "read_bytes_per_s", "bytes read by amax over BF16"),
    ):
        yield name, f"{measured[key] / 1e9:,.0f} GB/s", how
    for name, key, shape, how in (
        ("BF16 GEMM", "bf16_flops", "bf16_shape", ""),
        ("FP8 GEMM, fast accumulation", "fp8_flops", "fp8_shape", ", as fprop"),
        ("FP8 GEMM, split accumulation", "fp8_split_flops", "fp8_shape", ", as dgrad and wgrad"),
    ):
        if measured[key] is None:
            yield name, "-", measured["fp8_reason"]
        else:
            yield name, f"{three_digits(measured[key] / 1e12)} TFLOP/s", "×".join(map(str, measured[shape])) + how
    for name, key, how in (
        ("launch call", "launch_call_ns", "host time in cuLaunchKernel"),
        ("launch latency", "launch_latency_ns", "from the call to the kernel's word in host memory"),
        ("kernel after kernel", "kernel_interval_ns", "device time of an empty kernel in a full queue"),
        ("torch operator", "torch_operator_ns", "host time of x.add_(1)"),
    ):
        ns = measured[key]
        yield name, "-" if ns is None else duration(ns), how if ns is not None else measured.get("launch_reason", how)


def _conditions(measured: Mapping[str, Any]) -> Iterator[str]:
    before, after = measured["before"], measured["after"]
    if not before or not after:
        return
    yield (
        f"SM clock {before['sm_mhz']} MHz before, {after['sm_mhz']} MHz after; "
        f"{before['temperature_c']} to {after['temperature_c']} °C"
    )
    if after["slowed"]:
        yield f"! slowed down by {', '.join(after['slowed'])}"
    if before["other_processes"]:
        yield f"! {before['other_processes']} other processes were on this GPU: measure again when it is free"


def _rendered(lines: list[Line], color: bool) -> str:
    if not color:
        return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)
    from rich.console import Console
    from rich.text import Text

    # Lines are laid out already: rich colours them and must not wrap.
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, highlight=False, soft_wrap=True, legacy_windows=False)
    for line in lines:
        console.print(Text.assemble(*line))
    return written.getvalue()
