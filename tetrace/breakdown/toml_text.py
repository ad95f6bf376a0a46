"""Text in TOML, which Python reads itself from 3.11 on."""

from __future__ import annotations

import sys
from typing import Any

from tetrace.errors import InputError


def parsed(text: str, name: str, way_out: str) -> dict[str, Any]:
    """The tables of a TOML text, of the file `name`. Raises `InputError` for a text that is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else "too deep"
        raise InputError(f"{name}: is not TOML ({what}); {way_out}") from error
