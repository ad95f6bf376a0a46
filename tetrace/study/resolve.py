"""Which study a word on the command line means, where its results go, and which are stored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tetrace.errors import TetraceError, UsageError
from tetrace.study import results
from tetrace.study.other_start import is_other_start
from tetrace.study.spec import SPEC_FILE, Study
from tetrace.study.steps import STEPS_FILE

PROFILES, RESULTS = "profiles", "results"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Place:
    """`folder` holds study.toml; `results` is where folders of results are written; `stored` are all that may hold some."""

    folder: Path
    results: Path
    stored: tuple[Path, ...]


def find(word: str) -> Place:
    """The study that `word` names: a folder, one of ./profiles, or one that tetrace brings.

    Raises `UsageError` where there is none.
    """
    own, shipped = Path(PROFILES) / word, _shipped() / word
    if _NAME.fullmatch(word) and (own / SPEC_FILE).is_file():
        return Place(own, own / RESULTS, _existing(own / RESULTS, shipped / RESULTS))
    if (Path(word) / SPEC_FILE).is_file():
        folder = Path(word)
        return Place(folder, folder / RESULTS, _existing(folder / RESULTS))
    if _NAME.fullmatch(word) and (shipped / SPEC_FILE).is_file():
        return Place(shipped, own / RESULTS, _existing(own / RESULTS, shipped / RESULTS))
    if Path(word).is_dir():
        raise UsageError(f"{word}: has no {SPEC_FILE}; name a folder that has one, or start one with --new NAME")
    close = difflib.get_close_matches(word, names(), 3)
    way = f"did you mean {' or '.join(close)}?" if close else "`tetrace study` lists those that there are"
    raise UsageError(f"{word}: is no study and no folder; {way}")


def names() -> list[str]:
    """Names of all studies: those of ./profiles, then those that tetrace brings."""
    found: dict[str, None] = {}
    for folder in (Path(PROFILES), _shipped()):
        if folder.is_dir():
            found |= dict.fromkeys(file.parent.name for file in sorted(folder.glob(f"*/{SPEC_FILE}")))
    return list(found)


@dataclass(frozen=True)
class Stored:
    """`folders` with results: the newest first, those of the whole study before those of `--quick` and `--option`.
    Those of another start of the machine are not among them. `unreadable`: what is wrong with those that cannot be read,
    each with its file and the way out."""

    folders: tuple[Path, ...]
    unreadable: tuple[str, ...] = ()


def stored(place: Place, quick: bool = False, changed: Mapping[str, Any] | None = None) -> Stored:
    """What is stored of the study; with `quick` or `changed` options, of those runs only."""
    found: list[tuple[bool, str, Path]] = []
    unreadable = []
    for folder in place.stored:
        for file in sorted(folder.glob(f"*/{results.RESULTS_FILE}")):
            try:
                said = results.read(file.parent, place.folder.resolve().name)
            except TetraceError as error:
                unreadable.append(str(error))
                continue
            if is_other_start(file.parent):
                continue
            if (quick or changed) and (said.quick, dict(said.options_changed)) != (quick, dict(changed or {})):
                continue
            whole = not said.quick and not said.options_changed
            found.append((whole, said.ended or said.started, file.parent))
    newest = sorted(found, key=lambda each: each[:2], reverse=True)
    return Stored(tuple(folder for _, _, folder in newest), tuple(unreadable))


def check(study: Study, folder: Path) -> None:
    """Raises `InputError` or `UsageError` where the folder has no results of this study: it is one to read, not to measure
    into."""
    holds = f"{results.RESULTS_FILE} and {STEPS_FILE}, as a run of {study.name} writes them"
    results.read(folder, study.name, f"name a folder that holds {holds}")


def check_against(study: Study, folder: Path, against: Path) -> None:
    """The same of `against`, which the results in `folder` are compared with. Raises `UsageError` where it is that folder."""
    check(study, against)
    if against.resolve() == folder.resolve():
        raise UsageError(
            f"--against {against}: these are the results that would be compared with it; name those of another run"
        )


def check_steps(study: Study, folder: Path) -> None:
    """Raises `UsageError` where times of steps were measured and are not there: a report without them says less."""
    stored = results.read(folder, study.name)
    if any(one.rounds for one in stored.configurations) and not (folder / STEPS_FILE).is_file():
        lacks = f"{folder}: has no {STEPS_FILE}, without which a report says less than the one that is there"
        raise UsageError(f"{lacks}; the repository of tetrace has it, the installed package does not")


def check_report(study: Study, place: Place, folder: Path) -> None:
    """Raises `UsageError` where a report written into `folder` would replace one that says more, or is not the user's: where
    the times of steps are not there, or the results are those that tetrace brings."""
    check_steps(study, folder)
    if _shipped().resolve() in folder.resolve().parents and place.results.resolve() not in folder.resolve().parents:
        copy = f"cp -r {folder} mine, and --output mine"
        raise UsageError(f"{folder}: are the results that tetrace brings; write the report of a copy: {copy}")


def results_name(machine: str, quick: bool, changed: Mapping[str, Any]) -> str:
    """Name of the folder of results: what is not the whole study as written does not replace that."""
    words = [machine, *(["quick"] if quick else []), *(f"{option}-{value}" for option, value in changed.items())]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(words))[:100]


def new(name: str) -> Path:
    """Copy the template to ./profiles/NAME. Raises `UsageError` where that cannot be."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--new {name!r}: cannot be a folder's name; use letters, digits, _ . and -")
    folder, template = Path(PROFILES) / name, Path(__file__).parent / "template"
    if folder.exists():
        raise UsageError(f"{folder}: exists; choose another name, or run it: tetrace study {name}")
    try:
        folder.mkdir(parents=True)
        for file in sorted(template.iterdir()):
            if file.is_file():
                text = file.read_text(encoding="utf-8").replace('title = "NAME"', f'title = "{name}"')
                (folder / file.name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); change to a folder that can") from error
    return folder


def _existing(*folders: Path) -> tuple[Path, ...]:
    found = {folder.resolve(): folder for folder in folders if folder.is_dir()}
    return tuple(found.values())


def _shipped() -> Path:
    from tetrace.study.shipped import folder

    return folder()
