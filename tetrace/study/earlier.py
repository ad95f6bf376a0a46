"""Keeps what was measured before it is measured again: `earlier/<date>/` in the folder of results."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tetrace.errors import UsageError
from tetrace.study.results import RESULTS_FILE
from tetrace.study.steps import STEPS_FILE

FOLDER = "earlier"


def set_aside(folder: Path, recordings: Iterable[str], at: str) -> Path:
    """Copy the results in `folder` to one of their own, and move these recordings and the report there; returns it.

    Raises `UsageError` where that cannot be: then nothing may be measured again.
    """
    from tetrace.study.report import TABLE_FILES
    from tetrace.study.screen import PAGE_FILE, REPORT_FILE, SCREEN_FILE

    reports = (REPORT_FILE, PAGE_FILE, SCREEN_FILE, *TABLE_FILES)
    try:
        kept = _new_folder(folder / FOLDER, at.partition("+")[0].replace(":", "."))
        for file in (RESULTS_FILE, STEPS_FILE):
            if (folder / file).is_file():
                shutil.copy2(folder / file, kept / file)
        for name in (*reports, *recordings):
            if (folder / name).exists():
                (folder / name).rename(kept / name)
    except OSError as error:
        way = "name another folder with --output"
        raise UsageError(f"{folder / FOLDER}: cannot be written ({error.strerror}); {way}") from error
    return kept


def set_all_aside(folder: Path, at: str) -> Path:
    """Move all results in `folder` away, also those that cannot be read; returns where they are. See `set_aside`."""
    kept = set_aside(folder, (path.name for path in sorted(folder.glob("*.tetrace"))), at)
    for file in (RESULTS_FILE, STEPS_FILE):
        (folder / file).unlink(missing_ok=True)
    return kept


def _new_folder(within: Path, name: str) -> Path:
    within.mkdir(parents=True, exist_ok=True)
    # They are for whoever measured, and large.
    (within / ".gitignore").write_text("*\n", encoding="utf-8")
    folder, number = within / name, 1
    while folder.exists():
        number += 1
        folder = within / f"{name}-{number}"
    folder.mkdir()
    return folder
