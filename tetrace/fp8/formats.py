"""The two FP8 formats that tensors are cast to, and the number of each in a row."""

from __future__ import annotations

from dataclasses import dataclass

from tetrace.errors import UsageError


@dataclass(frozen=True)
class Format:
    """A format with `mantissa_bits` bits behind the point, subnormals, and `largest` as its largest finite value.

    OCP 8-bit Floating Point Specification (OFP8) 1.0, 2023, section 5.2, table 1. `number` is that of `rows.ROW`'s flags.
    """

    name: str
    number: int
    largest: float
    smallest_exponent: int  # of a normal value
    mantissa_bits: int

    @property
    def smallest_normal(self) -> float:
        """The smallest value that has all bits of its mantissa."""
        return 2.0**self.smallest_exponent

    @property
    def smallest_subnormal(self) -> float:
        """The smallest value that is not zero."""
        return 2.0 ** (self.smallest_exponent - self.mantissa_bits)

    @property
    def flush(self) -> float:
        """Up to here a magnitude is rounded to zero: half of the smallest subnormal, a tie that goes to the even zero."""
        return self.smallest_subnormal / 2

    @property
    def normal(self) -> float:
        """From here on a magnitude is rounded to a normal value: half a subnormal step below it, a tie again."""
        return self.smallest_normal - self.flush


E4M3 = Format("E4M3", 1, 448.0, -6, 3)
E5M2 = Format("E5M2", 2, 57344.0, -14, 2)
FORMATS = {one.name: one for one in (E4M3, E5M2)}


def format_named(name: str) -> Format:
    """`UsageError` for a name that is none."""
    found = FORMATS.get(str(name).upper())
    if found is None:
        raise UsageError(f"{name!r} is no FP8 format; give {' or '.join(FORMATS)}")
    return found
