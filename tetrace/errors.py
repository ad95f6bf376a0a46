"""The one exception root of tetrace, and what each kind of failure means to the command line."""

from __future__ import annotations


class TetraceError(Exception):
    """Something the user can act on: the message is one line with the value it got and the way out."""

    exit_code = 2


class InputError(TetraceError):
    """A file or folder that cannot be read as a recording."""


class UsageError(TetraceError):
    """An option whose value does not fit the recording it is applied to."""


class InstallationError(TetraceError):
    """A tetrace that is not whole: its compiled part is missing, or is for another Python."""


class ConservationError(TetraceError):
    """Numbers that must add up do not: a defect of tetrace, never of the recording."""

    exit_code = 70
