"""Reads the values of a TOML table by their kinds; every error has the file, the key and the way out."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tetrace.errors import InputError

# Labels become names of configurations and files.
_LABEL = re.compile(r"[A-Za-z0-9_.+]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Where keys are that are in no table.
TOP = "at the top"


class TomlReader:
    """Reads one file; its name is in every error."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def known(self, said: Mapping[str, Any], known: Iterable[str], where: str) -> None:
        listed = list(known)
        for key in said:
            if key not in listed:
                raise self.error(f"{key!r} {where} is not known; {like(key, listed)}")

    def is_there(self, name: str, names: Iterable[str], what: str) -> None:
        listed = list(names)
        if name not in listed:
            raise self.error(f"{what}: {name!r} is not in this study; {like(name, listed)}")

    def regex(self, said: str, where: str) -> None:
        try:
            re.compile(said)
        except re.error as error:
            raise self.error(f"{where}: {said!r} is no regular expression ({error}); escape it") from error

    def text(self, said: Mapping[str, Any], key: str, where: str, default: str | None) -> str:
        value = said.get(key, default)
        if value is None:
            raise self.error(f'{where} has no {key}; write {key} = "..."')
        if not isinstance(value, str):
            raise self.error(f"{key} {place(where)}: is {value!r}; write a text in quotes")
        return value

    def flag(self, said: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
        value = said.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} {place(where)}: is {value!r}; write true or false")
        return value

    def words(self, said: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = said.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.error(f"{key} {place(where)}: is {value!r}; write a list of texts")
        return tuple(value)

    def table(self, said: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
        value = said.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} {place(where)}: is no table; write {key} = {{...}}")
        return value

    def tables(self, said: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
        value = said.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.error(
                f"{key} {place(where)}: is no list of tables; write [[{key}]] above each, or {key} = [{{...}}]"
            )
        return value

    def numbered(self, said: Mapping[str, Any], key: str, where: str) -> list[tuple[int, dict[str, Any]]]:
        return list(enumerate(self.tables(said, key, where), 1))

    def entries(self, said: Mapping[str, Any], key: str) -> list[tuple[dict[str, Any], str]]:
        return [(each, f"[[{key}]] {number}") for number, each in self.numbered(said, key, TOP)]

    def options(self, said: Mapping[str, Any], where: str) -> dict[str, Any]:
        return self.plain(self.table(said, "options", where), f"options {place(where)}")

    def plain(self, options: dict[str, Any], where: str) -> dict[str, Any]:
        """Options that can be handed to another process: TOML's dates and times cannot."""
        for option, value in options.items():
            self._check_plain(value, f"{option} in {where}")
        return options

    def _check_plain(self, value: Any, where: str) -> None:
        if isinstance(value, list):
            for each in value:
                self._check_plain(each, where)
        elif isinstance(value, dict):
            self.plain(value, where)
        elif isinstance(value, datetime.date | datetime.time):
            raise self.error(f'{where}: is a date or a time; write it as a text in quotes: "{value}"')

    def environment(self, said: Mapping[str, Any], where: str) -> dict[str, str]:
        table = self.table(said, "environment", where)
        for name, value in table.items():
            if not _VARIABLE.fullmatch(name):
                raise self.error(
                    f"environment {place(where)}: {name!r} is no variable's name; write letters, digits and _"
                )
            if not isinstance(value, str) or "\0" in value:
                raise self.error(f"environment {place(where)}: {name} is {value!r}; write a text in quotes")
        return table

    def label(self, label: str, where: str, axis: str = "NAME") -> None:
        if not _LABEL.fullmatch(label) or label.startswith("."):
            way = f"write axes.{axis}.NAME = {{{axis} = ...}}, with a NAME" if axis != "NAME" else "write a name"
            raise self.error(f"{where}: {label!r} cannot name a file; {way} of letters, digits, _ . and +")

    def error(self, what: str) -> InputError:
        return InputError(f"{self.file}: {what}")


def place(where: str) -> str:
    """`at the top`, `in [measure]`."""
    return where if where == TOP else f"in {where}"


def label_of(value: Any) -> str:
    """`true` for True, 512 for 512."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def like(word: str, known: Iterable[str]) -> str:
    listed = list(known)
    close = difflib.get_close_matches(word, listed, 3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there is {', '.join(listed[:12])}" if listed else "there is none"
