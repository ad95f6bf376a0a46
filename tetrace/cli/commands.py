"""A group of commands that are imported when they are needed: `tetrace --help` must answer at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Commands(click.Group):
    """A group of `modules`: the name of each command, and the module that defines it under that name."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._modules = modules

    def list_commands(self, _context: click.Context) -> list[str]:
        """Names of the commands, in the order of the help."""
        return list(self._modules)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command called `name`, None where there is none."""
        if name not in self._modules:
            return None
        command: click.Command = getattr(importlib.import_module(self._modules[name]), name)
        return command
