"""The user's standard streams, some of which may be closed."""

from __future__ import annotations

import os


def hold() -> None:
    """Give closed standard streams something to be, before a file that is opened later takes their number.

    Nothing that is started inherits it: to the user's command they are as closed as they were.
    """
    for number in range(3):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def of_the_user() -> list[int]:
    """Those of 0, 1 and 2 that were open when `hold` was called."""
    return [number for number in range(3) if os.get_inheritable(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
