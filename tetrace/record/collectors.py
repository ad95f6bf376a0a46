"""What can record a run, and which of them does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tetrace.errors import UsageError
from tetrace.record import cupti, nsys
from tetrace.record.events import Events
from tetrace.record.host import Host
from tetrace.record.options import EVERY, Options
from tetrace.record.running import Running

_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu")


class Collector(Protocol):
    """What runs the command and keeps what the GPU did."""

    @property
    def name(self) -> str:
        """As in --collector."""

    @property
    def capture(self) -> str:
        """How the instrumentation opens and closes its window: `nvtx`, `collector`, or `none`."""

    @property
    def records_gpu(self) -> bool:
        """Whether the recording holds what ran on the GPU."""

    def describe(self) -> dict[str, object]:
        """What run.json says of it, under its name."""

    def start(self, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Running:
        """Start the command."""

    def last_words(self, folder: Path) -> str:
        """What it said where it never started the command."""

    def collect(self, folder: Path) -> tuple[str, ...]:
        """Make what the importer reads, and return what its reader must know.

        Raises `InputError` with the reason where something is missing that should be there.
        """


Find = Callable[[Options, Sequence[str], Mapping[str, str]], Collector]


def _nsys(options: Options, _program: Sequence[str], environ: Mapping[str, str]) -> Collector:
    return nsys.find(nsys.split(options.nsys), options.window.whole_run, environ)


def _cupti(options: Options, program: Sequence[str], environ: Mapping[str, str]) -> Collector:
    return cupti.find(program, options.calls, options.window.whole_run, environ)


def _events(options: Options, _program: Sequence[str], _environ: Mapping[str, str]) -> Collector:
    return Events(options.every or EVERY)


def _host(_options: Options, _program: Sequence[str], _environ: Mapping[str, str]) -> Collector:
    return Host()


# By name; each raises `UsageError` with the reason where it cannot record here.
_FIND: dict[str, Find] = {"nsys": _nsys, "cupti": _cupti, "events": _events, "host": _host}
# What `auto` tries, in this order.
_AUTOMATIC = ("nsys", "cupti", "host")


def choose(options: Options, program: Sequence[str], environ: Mapping[str, str]) -> tuple[Collector, str]:
    """The collector for `options` and the command `program` on this machine, and why this one.

    Raises `UsageError` where the one that was asked for cannot record, or an option is not for it.
    """
    _check(options)
    if options.collector != "auto":
        return _FIND[options.collector](options, program, environ), "asked for"
    if not any(Path(device).exists() for device in _DEVICES):
        return Host(), "there is no NVIDIA GPU here"
    return _first(_AUTOMATIC, [], options, program, environ)


def after(
    failed: str, why: str, options: Options, program: Sequence[str], environ: Mapping[str, str]
) -> tuple[Collector, str]:
    """The next collector where `failed` turned out not to record, for the reason `why`."""
    return _first(_AUTOMATIC[_AUTOMATIC.index(failed) + 1 :], [why], options, program, environ)


def _first(
    names: Iterable[str], reasons: list[str], options: Options, program: Sequence[str], environ: Mapping[str, str]
) -> tuple[Collector, str]:
    for name in names:
        collector, reason = _tried(_FIND[name], options, program, environ)
        if collector is not None:
            return collector, ", and ".join(reasons) or f"{name} is there"
        reasons.append(reason)
    raise UsageError(", and ".join(reasons))


def _tried(
    find: Find, options: Options, program: Sequence[str], environ: Mapping[str, str]
) -> tuple[Collector | None, str]:
    """The collector, or None and why it cannot record here."""
    try:
        return find(options, program, environ), ""
    except UsageError as error:
        return None, str(error)


def _check(options: Options) -> None:
    """Options that are for another collector than the one asked for."""
    nsys.split(options.nsys)
    if options.nsys and options.collector not in ("auto", "nsys"):
        raise UsageError(f"--nsys has no meaning with --collector {options.collector}; leave one out")
    if options.calls != "launches" and options.collector not in ("auto", "cupti"):
        raise UsageError(
            f"--calls {options.calls} has no meaning with --collector {options.collector}; leave it out, or record "
            "with --collector cupti"
        )
    if options.fp8 is not None and options.ranges == "off":
        raise UsageError("--fp8 tells tensors by their modules' ranges; leave out --ranges off")
    if options.every is not None and options.collector != "events":
        raise UsageError(
            f"--every {options.every} has a meaning with --collector events only; leave it out, or add that"
        )
