"""How nanoseconds, bytes, counts and shares are written for people. Tables keep the integers."""

from __future__ import annotations

_DURATIONS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))
_BYTES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def three_digits(value: float) -> str:
    """`value` with three significant digits and no exponent: 1234, 12.3, 1.23, 0.012."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.3f}"


def duration(ns: float) -> str:
    """Nanoseconds as a duration: `18.1 ms`, `842 ns`."""
    for size, unit in _DURATIONS:
        if abs(ns) >= size:
            return f"{three_digits(ns / size)} {unit}"
    return f"{ns:.0f} ns"


def milliseconds(ns: float) -> str:
    """Nanoseconds as milliseconds without a unit, for a column whose head names it."""
    return f"{ns / 1e6:,.3f}"


def microseconds(ns: float) -> str:
    """Nanoseconds as microseconds without a unit, for a column whose head names it."""
    return f"{ns / 1e3:,.1f}"


def byte_count(size: float) -> str:
    """Bytes in binary units: `64.0 MiB`."""
    for unit_size, unit in _BYTES:
        if abs(size) >= unit_size:
            return f"{three_digits(size / unit_size)} {unit}"
    return f"{size:.0f} B"


def percent(part: float, whole: float) -> str:
    """`part` as a percentage of `whole`; an empty string where there is no whole to divide by."""
    return f"{100 * part / whole:.1f}%" if whole else ""


def steps_until_end(whole: int) -> str:
    """When a run ended, by the steps that ended in it: what follows the last of them is no step."""
    return f"after {plural(whole, 'whole step')}" if whole else "in its first step"


def plural(number: int, word: str) -> str:
    """A number of things: `1 step`, `2,048 steps`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
