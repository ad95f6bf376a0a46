"""What a what-if asks for: a recipe, a format, and how delayed scaling makes its scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from tetrace.errors import UsageError

RECIPES = ("current", "delayed", "block", "mxfp8")
# Each block of a tensor has a scale of its own.
BLOCK_WISE = ("block", "mxfp8")
NUMBER_FORMATS = ("E4M3", "E5M2", "HYBRID")
ALGORITHMS = ("max", "most_recent")
MOST_MARGIN, MOST_HISTORY = 16, 1024


@dataclass(frozen=True)
class Settings:
    """A recipe to try. What is empty or None is as it ran.

    `history` is the length of the amax history in steps, `algorithm` what of it the scale is made of, `power_of_two`
    whether scales of the current or block recipe are powers of two.
    """

    recipe: str = ""
    format: str = ""
    margin: int | None = None
    history: int | None = None
    algorithm: str = ""
    power_of_two: bool | None = None

    def __post_init__(self) -> None:
        _one_of("recipe", self.recipe, RECIPES)
        _one_of("format", self.format, NUMBER_FORMATS)
        _one_of("algorithm", self.algorithm, ALGORITHMS)
        _between("margin", self.margin, 0, MOST_MARGIN)
        _between("history", self.history, 1, MOST_HISTORY)
        of_delayed = [name for name in ("margin", "history", "algorithm") if getattr(self, name) not in (None, "")]
        if of_delayed and self.recipe not in ("", "delayed"):
            raise UsageError(f"{of_delayed[0]} belongs to delayed scaling, not to recipe={self.recipe}; leave it out")
        if self.power_of_two is not None and self.recipe in ("delayed", "mxfp8"):
            belongs = "power_of_two belongs to current and block scaling"
            raise UsageError(f"{belongs}, not to recipe={self.recipe}; leave it out")

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value not in (None, "")}
        words = (f"{name}={_word(value)}" for name, value in given.items())
        return ",".join(words) or "as it ran"


def parse(words: Sequence[str]) -> Settings:
    """Settings from `recipe=delayed,format=E4M3 margin=1`, joined by commas or given one by one.

    Raises `UsageError` for what makes no sense.
    """
    found: dict[str, Any] = {}
    for word in (part.strip() for whole in words for part in whole.split(",") if part.strip()):
        name, equals, value = word.partition("=")
        if not equals or name not in _READ:
            raise UsageError(f"{word}: give NAME=VALUE with one of {', '.join(_READ)}; for example margin=1")
        if name in found:
            raise UsageError(f"{word}: {name} is given twice")
        found[name] = _READ[name](name, value)
    if not found:
        raise UsageError(f"nothing is asked for: give NAME=VALUE with one of {', '.join(_READ)}; for example margin=1")
    return Settings(**found)


def _number(name: str, value: str) -> int:
    if not value.removeprefix("-").isdecimal():
        raise UsageError(f"{name}={value}: give a whole number")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise UsageError(f"{name}={value}: give yes or no")
    return value.lower() in ("yes", "true", "1")


_READ: dict[str, Callable[[str, str], Any]] = {
    "recipe": lambda _, value: value.lower(),
    "format": lambda _, value: value.upper(),
    "margin": _number,
    "history": _number,
    "algorithm": lambda _, value: value.lower(),
    "power_of_two": _flag,
}


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value and value not in known:
        raise UsageError(f"{name}={value}: give one of {', '.join(known)}")


def _between(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not (isinstance(value, Integral) and least <= value <= most):
        raise UsageError(f"{name}={value}: give a whole number from {least} to {most}")


def _word(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
