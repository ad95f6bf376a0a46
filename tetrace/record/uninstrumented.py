"""Why no Python process of a command was instrumented: what is known of it, else all that it may have been."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from tetrace.record.running import Ended

_NONE = "no Python process was instrumented"
_POSSIBLE = (
    f"{_NONE}: none imported torch, which may be missing there, or it ran as python -I, -E or -S, with a PYTHONPATH of "
    "its own, or as another Python than tetrace is built for"
)
_WITHOUT_TORCH = "--steps all records the GPU of a program without torch"
# What ran may hide its imports, hence no more than what could be seen.
_FAILED_EARLY = "the script failed ({}) before it imported torch, as far as could be seen"
# Options of Python whose value may be the next word.
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_WITHOUT_SITE = set("IES")


def why(ended: Ended, run: Sequence[str], waits: bool = False) -> str:
    """Why no process of the command `run` left anything of its own. `waits`: its GPU would be recorded, from a step on that
    only an instrumented process comes to."""
    known = _known(run)
    if ended.finished:
        if known:
            return f"{_NONE}: {known}"
        return f"{_POSSIBLE}; {_WITHOUT_TORCH}" if waits else _POSSIBLE
    return _FAILED_EARLY.format(ended.how) + (f"; {known}" if known else "")


def _known(run: Sequence[str]) -> str:
    """What keeps tetrace out of this command, or torch; empty where neither can be seen."""
    if Path(run[0]).name.startswith("python") and (option := _leaves_out_site(run[1:])):
        return f"{option} of {Path(run[0]).name} leaves out what starts tetrace in it; run it without {option}"
    # Another Python than this one may have it.
    if run[0] == sys.executable and not _has_torch():
        return "torch is not installed in the Python that runs tetrace and the script: install tetrace beside torch"
    return ""


def _leaves_out_site(words: Sequence[str]) -> str:
    """The option by which Python ignores PYTHONPATH, or imports no sitecustomize; empty where there is none."""
    skipped = False
    for word in words:
        if skipped or word in _WITH_VALUE:
            skipped = not skipped
        elif not word.startswith("-") or word in ("-", "--") or word[:2] in ("-c", "-m"):
            return ""
        elif not word.startswith(("--", "-W", "-X")) and (found := _WITHOUT_SITE.intersection(word)):
            return f"-{next(letter for letter in word if letter in found)}"
    return ""


def _has_torch() -> bool:
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):
        return False
