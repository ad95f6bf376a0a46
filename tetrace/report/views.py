"""The tables of a breakdown as people read them: which columns, under which heads, in which units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import Column
from tetrace.report.scale import NOT_CAPTURED, Scale
from tetrace.units import byte_count, microseconds, milliseconds, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

Row = dict[str, Any]
# Columns that the words of a column keep on a narrow screen: all of them, and as many as a refusal can be read in.
_UNCUT, _REFUSED = 1 << 10, 36


@dataclass(frozen=True)
class Field:
    """A column of a view: `say` words it from a row, `sum_up` words the sum over all rows where there is one.

    `source` is the table's column that hides the field when all of it is zero (`always`: shown even so).
    """

    column: Column
    source: str
    say: Callable[[Row], str]
    sum_up: Callable[[int], str] | None = None
    always: bool = False


@dataclass(frozen=True)
class View:
    """What `--by NAME` shows: a table and the fields made of it."""

    name: str
    table: str
    title: str
    fields: Callable[[Breakdown, Scale], list[Field]]
    whole: bool = True


def text(
    source: str, head: str = "", keep: int = 0, code: bool = False, cut_long: Callable[[Row], str] | None = None
) -> Field:
    return Field(
        Column(head or source, number=False, keep=keep, code=code),
        source,
        cut_long or (lambda row: str(row[source])),
        always=True,
    )


def ms(scale: Scale, source: str, head: str = "", keep: int = 0, always: bool = False) -> Field:
    def say(row: Row) -> str:
        return NOT_CAPTURED if row[source] < 0 else scale.ms(row[source])

    return Field(Column(head or scale.head, keep=keep), source, say, scale.ms, always)


def count(scale: Scale, source: str, head: str, keep: int = 0) -> Field:
    return Field(Column(head, keep=keep), source, lambda row: scale.count(row[source]), scale.count)


def us(source: str, head: str, keep: int = 0) -> Field:
    return Field(Column(head, keep=keep), source, lambda row: microseconds(row[source]))


def share(source: str, whole: int, head: str, keep: int = 0) -> Field:
    return Field(
        Column(head, keep=keep), source, lambda row: percent(row[source], whole), lambda ns: percent(ns, whole), True
    )


def number(source: str, head: str = "", keep: int = 0) -> Field:
    return Field(Column(head or source, keep=keep), source, lambda row: str(row[source]), always=True)


def short_kernel(row: Row) -> str:
    """A kernel's name; its family where the name is a C++ signature that no column could hold."""
    return row["family"] if "<" in row["name"] or "(" in row["name"] else row["name"]


def _kernels(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        ms(scale, "total_ns"),
        share("total_ns", breakdown.totals.activity_ns, "of activity"),
        count(scale, "count", "count", 1),
        us("mean_ns", "mean µs", 2),
        us("min_ns", "min µs", 5),
        us("max_ns", "max µs", 4),
        text("category", keep=3),
        text("formats", keep=6),
        text("grid", keep=8),
        text("block", keep=9),
        text("name", "kernel", code=True, cut_long=short_kernel),
    ]


def kernels_whole(breakdown: Breakdown, scale: Scale) -> list[Field]:
    """The fields of `kernel` with names uncut."""
    return [*_kernels(breakdown, scale)[:-1], text("name", "kernel", code=True)]


def _modules(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        text("module", code=True),
        ms(scale, "total_ns"),
        share("total_ns", breakdown.totals.activity_ns, "of activity"),
        ms(scale, "forward_ns", "forward", 2),
        ms(scale, "recompute_ns", "recompute", 4),
        ms(scale, "backward_ns", "backward", 2),
        ms(scale, "optimizer_ns", "optimizer", 8),
        ms(scale, "other_ns", "other", 8),
        ms(scale, "gemm_ns", "gemm", 3),
        ms(scale, "attention_ns", "attention", 6),
        ms(scale, "quantization_ns", "quantize", 1),
        ms(scale, "fused_quantization_ns", "fused", 5),
        count(scale, "launches", "launches", 7),
        ms(scale, "host_bound_ns", "host-bound", 1),
    ]


def _phases(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        text("phase"),
        text("category"),
        count(scale, "count", "count"),
        ms(scale, "total_ns"),
        share("total_ns", breakdown.totals.activity_ns, "of activity"),
    ]


def _hosts(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        ms(scale, "host_bound_ns"),
        share("host_bound_ns", breakdown.totals.wall_ns, "of wall"),
        count(scale, "gaps", "gaps", 2),
        text("phase", keep=1),
        Field(Column("quantizes", False, 4), "quantizes", lambda row: "yes" if row["quantizes"] else ""),
        text("module", keep=3, code=True),
        text("range", "host range", code=True),
    ]


def _launches(_breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        text("call", code=True),
        count(scale, "count", "calls"),
        count(scale, "activities", "activities"),
        ms(scale, "total_ns", f"host {scale.head}"),
        us("median_ns", "median µs", 1),
        us("max_ns", "max µs", 2),
        ms(scale, "back_pressure_ns", "back-pressure", always=True),
    ]


def _gemms(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        ms(scale, "total_ns"),
        share("total_ns", breakdown.fp8_coverage.gemm_ns, "of GEMM time"),
        count(scale, "count", "count", 2),
        text("formats", cut_long=lambda row: row["formats"] or "unknown"),
        text("role", keep=1),
        text("phase", keep=3),
        text("kernel", keep=4, code=True),
        text("module", code=True),
    ]


def _attention(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        ms(scale, "total_ns"),
        share("total_ns", breakdown.totals.activity_ns, "of activity"),
        count(scale, "count", "count", 2),
        text("backend"),
        text("formats", keep=3),
        text("direction", keep=1),
        text("phase", keep=2),
        text("module", code=True),
    ]


def _quantization(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        ms(scale, "total_ns"),
        ms(scale, "estimate_ns", "estimate", 1, always=True),
        share("total_ns", breakdown.totals.activity_ns, "of activity"),
        count(scale, "count", "count", 3),
        Field(Column("fused", False, 4), "fused", lambda row: "fused" if row["fused"] else ""),
        text("role", keep=1),
        text("phase", keep=2),
        text("operation"),
        text("module", code=True),
    ]


def _communication(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        text("operation"),
        text("phase", keep=1),
        count(scale, "count", "count"),
        ms(scale, "total_ns"),
        ms(scale, "exposed_ns", "exposed", always=True),
        share("exposed_ns", breakdown.totals.wall_ns, "of wall"),
        ms(scale, "waiting_ns", "waiting", 2, always=True),
        text("kernel", keep=3, code=True),
    ]


def _memory(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        text("name"),
        text("phase"),
        count(scale, "count", "count"),
        Field(
            Column("bytes"),
            "bytes",
            lambda row: NOT_CAPTURED if row["bytes"] < 0 else byte_count(row["bytes"] / scale.steps),
        ),
        ms(scale, "total_ns"),
        share("total_ns", breakdown.totals.activity_ns, "of activity"),
    ]


_CAUSES = (
    ("host_bound_ns", "host-bound"),
    ("synchronization_ns", "sync"),
    ("launch_latency_ns", "latency"),
    ("dependency_ns", "dependency"),
    ("graph_ns", "graph"),
    ("profiler_ns", "profiler"),
    ("queued_ns", "queued"),
    ("unexplained_ns", "unexplained"),
)


def _steps(_breakdown: Breakdown, _scale: Scale) -> list[Field]:
    one = Scale(1, "")
    return [
        number("process", keep=3),
        number("device", keep=3),
        number("step"),
        text("name", keep=4, code=True),
        ms(one, "wall_ns", "wall"),
        ms(one, "busy_ns", "busy", always=True),
        ms(one, "exposed_communication_ns", "exposed comm", 1),
        *(ms(one, source, head, 5 + i) for i, (source, head) in enumerate(_CAUSES)),
        ms(one, "spill_ns", "spill", 12),
        number("activities", keep=13),
        text("reason", "left out", keep=2),
    ]


def _lanes(breakdown: Breakdown, _scale: Scale) -> list[Field]:
    per_step = breakdown.selection.per_step

    def mean(source: str, head: str, keep: int = 0, always: bool = False) -> Field:
        def say(row: Row) -> str:
            return milliseconds(row[source] / (max(row["steps"], 1) if per_step else 1))

        return Field(Column(head, keep=keep), source, say, always=always)

    def share_of_wall(row: Row) -> str:
        return percent(row["wall_ns"] - row["busy_ns"], row["wall_ns"])

    return [
        Field(Column("rank"), "rank", lambda row: "" if row["rank"] < 0 else str(row["rank"])),
        Field(Column("pid"), "pid", lambda row: NOT_CAPTURED if row["pid"] < 0 else str(row["pid"]), always=True),
        number("device"),
        text("gpu", "GPU", keep=2, cut_long=lambda row: row["gpu"] or NOT_CAPTURED),
        number("steps", keep=1),
        mean("wall_ns", "wall", always=True),
        mean("busy_ns", "busy", always=True),
        Field(Column("idle of wall"), "wall_ns", share_of_wall, always=True),
        mean("exposed_communication_ns", "exposed comm", 1),
        mean("waiting_ns", "waiting", 2),
        *(mean(source, head, 3 + i) for i, (source, head) in enumerate(_CAUSES)),
        mean("total_ns", "activity", 2),
    ]


def _host_modules(_breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        text("module", code=True),
        text("phase"),
        count(scale, "calls", "calls", 1),
        ms(scale, "self_ns", f"self {scale.head}"),
        replace(ms(scale, "total_ns", "with inner", 2), sum_up=None),  # modules inside count again in their own row
    ]


def _host_steps(_breakdown: Breakdown, _scale: Scale) -> list[Field]:
    one = Scale(1, "")

    def phase(name: str) -> Field:
        """Empty outside the recorded steps."""
        source = f"{name}_ns"
        return Field(Column(name), source, lambda row: "" if row[source] < 0 else one.ms(row[source]))

    def micro_batches(row: Row) -> str:
        return "" if row["backwards"] < 0 else str(row["backwards"])

    return [
        number("process", keep=3),
        number("step"),
        ms(one, "wall_ns", "wall ms"),
        *(phase(name) for name in ("forward", "backward", "optimizer")),
        Field(Column("micro-batches", keep=1), "backwards", micro_batches),
        Field(Column("", False, 2), "used", lambda row: "" if row["used"] else "left out", always=True),
    ]


def _recorded_calls(breakdown: Breakdown, scale: Scale) -> list[Field]:
    return [
        ms(scale, "total_ns"),
        count(scale, "count", "calls", 1),
        count(scale, "activities", "activities", 4),
        text("kind", keep=5),
        text("role", keep=1),
        text("phase", keep=3),
        text("format", keep=2),
        text("shape", keep=2),
        text("dtype", keep=6),
        text("call", keep=5, code=True),
        text("module", code=True),
    ]


def _backends(_breakdown: Breakdown, _scale: Scale) -> list[Field]:
    return [
        text("module", code=True),
        Field(Column("backend", False, least=_UNCUT), "backend", lambda row: row["backend"], always=True),
        Field(Column("sub-backend", False, 3), "sub_backend", lambda row: row["sub_backend"]),
        Field(Column("by the kernels", False, 2, least=14), "kernels", lambda row: row["kernels"], always=True),
        number("selections", keep=4),
        number("calls", keep=5),
        Field(Column("refused", False, 1, least=_REFUSED), "refused", lambda row: row["refused"], always=True),
    ]


def module_time_fields(table: Table) -> list[Field]:
    """The fields of `module-time`: of a step, because modules that hold others cannot be added up."""
    from tetrace.breakdown.module_times import STEP

    whole = {row["phase"]: row["mean_ns"] for row in table.rows() if row["module"] == STEP}.get("all", 0)
    one = Scale(1, "")

    def calls(row: Row) -> str:
        return Scale(row["steps"], "").count(row["count"]) if row["steps"] else ""

    def of_step(row: Row) -> str:
        return percent(row["mean_ns"], whole)

    return [
        text("module", code=True),
        text("phase"),
        ms(one, "mean_ns", "mean", always=True),
        Field(Column("of step", keep=1), "mean_ns", of_step, always=whole > 0),
        ms(one, "median_ns", "median"),
        ms(one, "p95_ns", "p95", 2),
        ms(one, "min_ns", "min", 4),
        ms(one, "max_ns", "max", 3),
        Field(Column("calls", keep=6), "count", calls),
        number("steps", keep=5),
        Field(Column("left out", keep=7), "partial_steps", lambda row: str(row["partial_steps"])),
    ]


def _module_times(breakdown: Breakdown, _scale: Scale) -> list[Field]:
    return module_time_fields(breakdown.tables["module_times"])


def _module_memory(_breakdown: Breakdown, _scale: Scale) -> list[Field]:
    def size(source: str, head: str, keep: int) -> Field:
        return Field(
            Column(head, keep=keep), source, lambda row: NOT_CAPTURED if row[source] < 0 else byte_count(row[source])
        )

    return [
        text("module", code=True),
        text("class", keep=6),
        number("parameters", keep=2),
        size("parameter_bytes", "weights", 0),
        size("fp8_bytes", "FP8", 1),
        size("transpose_bytes", "transposes", 3),
        size("master_bytes", "masters", 4),
        size("optimizer_bytes", "optimizer", 1),
    ]


def _memory_peaks(_breakdown: Breakdown, _scale: Scale) -> list[Field]:
    return [
        number("process", keep=2),
        text("phase"),
        number("step"),
        Field(Column("allocated"), "allocated_bytes", lambda row: byte_count(row["allocated_bytes"])),
        Field(Column("reserved"), "reserved_bytes", lambda row: byte_count(row["reserved_bytes"])),
    ]


VIEWS = (
    View("module", "modules", "Modules", _modules),
    View("kernel", "kernels", "Kernels", _kernels),
    View("category", "phases", "Category × phase", _phases),
    View("phase", "phases", "Phase and category", _phases),
    View("host", "host_ranges", "Host ranges while the GPU idles", _hosts),
    View("launch", "launches", "Launching calls on the host", _launches),
    View("gemm", "gemms", "GEMMs", _gemms),
    View("attention", "attention", "Attention", _attention),
    View("quantization", "quantization", "Quantization", _quantization),
    View("communication", "communication", "Communication", _communication),
    View("memory", "memory", "Copies and memsets", _memory),
    View("step", "steps", "Steps", _steps, whole=False),
    View("lane", "lanes", "Lanes (process × device), each on its own", _lanes, whole=False),
    View("host-module", "host_modules", "Host time by module", _host_modules),
    View("host-step", "host_steps", "Steps on the host", _host_steps, whole=False),
    View("call", "recorded_calls", "Recorded calls: quantization, scale updates, GEMMs", _recorded_calls),
    View("backend", "attention_backends", "Attention backends as selected", _backends, whole=False),
    View("module-time", "module_times", "Modules on their streams", _module_times, whole=False),
    View("module-memory", "module_memory", "Memory by module", _module_memory, whole=False),
    View("memory-peak", "memory_peaks", "Peaks of allocated memory", _memory_peaks, whole=False),
)
BY_NAME = {view.name: view for view in VIEWS}
