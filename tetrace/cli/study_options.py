"""Options of `tetrace study` as they were given: which need a study, what they change, and the command that says the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource

from tetrace.errors import UsageError

# What means something without a study: the list of all may be wide, and --new makes one.
_ALONE = ("wide", "new")


def check_alone(new: str | None) -> None:
    """Raises `UsageError` where the command names no study and has an option that means nothing without one."""
    context = click.get_current_context()
    given = [one for one in context.command.params if _is_given(context, one) and one.name not in _ALONE]
    if not given:
        return
    names = ", ".join(one.opts[0] for one in given)
    one_of_many = len(given) == 1
    if new is not None:
        it = "it" if one_of_many else "them"
        raise UsageError(f"{names} {'means' if one_of_many else 'mean'} nothing beside --new {new}; leave {it} out")
    words = shlex.join(word for one in given for word in _words(one, context.params[str(one.name)]))
    raise UsageError(f"{names} {'needs' if one_of_many else 'need'} a NAME: tetrace study NAME {words}")


def _is_given(context: click.Context, one: click.Parameter) -> bool:
    return context.get_parameter_source(str(one.name)) is ParameterSource.COMMANDLINE


def _words(one: click.Parameter, value: Any) -> Iterator[str]:
    if value is True:
        yield one.opts[0]
        return
    for each in value if isinstance(value, tuple) else (value,):
        yield from (one.opts[0], f"{each:g}" if isinstance(each, float) else str(each))


def changes(words: tuple[str, ...]) -> Mapping[str, Any]:
    """`batch=4` as an option and its value: as TOML has it, else a text."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {word}: has no value; write KEY=VALUE")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def command(study: str, quick: bool, repeat: int | None, changed: tuple[str, ...]) -> str:
    """The command that measures the same; what was said of this run alone (--only, --fresh) is left out."""
    options = [*(["--quick"] if quick else []), *(["--repeat", str(repeat)] if repeat else [])]
    for word in changed:
        options += ["--option", word]
    return shlex.join(["tetrace", "study", study, *options])
