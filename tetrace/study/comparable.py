"""Whether configurations may be compared: what was measured is what the study plans, and both were measured alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.study.ledger import digests
from tetrace.study.results import WAITING
from tetrace.study.spec import MODEL_FILE

if TYPE_CHECKING:
    from tetrace.study.results import Configuration, Results
    from tetrace.study.spec import Planned

# Parts of a context, each in words for one that is another.
_PARTS = {
    "machine": "on another machine",
    "versions": "with other versions",
    "environment": "in another environment",
    "measure": "with other steps or warm-up",
}
# What a step does, where that was counted.
_WORK = ("tokens", "flops", "parameters")
_MOST_NAMED = 4


def not_as_planned(found: Configuration, planned: Planned | None, folder: Path) -> str:
    """How a stored configuration differs from the planned one: `measured with other options (batch)`; empty where it does
    not, was not run, or is not known to. `folder` is the study's."""
    if found.state == WAITING and not found.rounds:
        return ""
    did = "measured" if found.is_timed else found.state
    if planned is None:
        return f"{did} for an earlier study.toml, which had it" if found.key else ""
    if names := _differing(found.options, planned.options):
        return f"{did} with other options ({names})"
    if names := _differing(found.environment, planned.environment):
        return f"{did} with other variables ({names})"
    # A file that is not here cannot be told to be another.
    here = [file for file in found.code if (folder / file).is_file()]
    now = digests(folder, here) if here else {}
    others = [file for file in here if now[file] != found.code[file]]
    if others:
        return f"{did} with another {MODEL_FILE if MODEL_FILE in others else others[0]}"
    return ""


def differences(results: Results, one: str | None, other: str | None) -> str:
    """What differs between two contexts, in words: `with other versions (torch)`."""
    a, b = (results.contexts.get(context or "") for context in (one, other))
    if a is None or b is None:
        return "in a context that was not kept, maybe another"
    parts = [key for key in _PARTS if _plain(a.get(key)) != _plain(b.get(key))]
    said = [f"{_PARTS[key]}{_named(a.get(key), b.get(key))}" for key in parts]
    return " and ".join(said) or "in another context"


def unlike(one: Configuration, other: Configuration, runs: tuple[Results, Results]) -> str:
    """Why times of a configuration in two runs are not to be compared: `measured with other versions (torch)`; empty where
    they are. Of what they ran with, what both say has to be alike: an option that the model has had since, and a package that
    only one run lists, are no difference that is known (`one_sided`)."""
    pairs = [("with other options", one.options, other.options)]
    pairs += [("with other variables", one.environment, other.environment)]
    pairs += [(_PARTS[key], a, b) for key, a, b in _contexts(one, other, runs)]
    work = [{key: getattr(each, key) for key in _WORK if getattr(each, key)} for each in (one, other)]
    pairs += [("with other work in a step", work[0], work[1])]
    said = [
        f"{words} ({names})"
        for words, a, b in pairs
        if (names := _differing({key: a[key] for key in a if key in b}, {key: b[key] for key in b if key in a}))
    ]
    return f"measured {' and '.join(said)}" if said else ""


def one_sided(one: Configuration, other: Configuration, runs: tuple[Results, Results]) -> dict[str, tuple[str, ...]]:
    """What only one of two runs of a configuration says that it ran with: names by kind; and files that are others."""
    pairs = [("options", one.options, other.options), ("variables", one.environment, other.environment)]
    pairs += [(key, a, b) for key, a, b in _contexts(one, other, runs)]
    found = {kind: tuple(sorted(a.keys() ^ b.keys())) for kind, a, b in pairs}
    code = tuple(file for file in one.code if file in other.code and one.code[file] != other.code[file])
    return {kind: names for kind, names in {**found, "code": code}.items() if names}


def _contexts(
    one: Configuration, other: Configuration, runs: tuple[Results, Results]
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    a, b = (run.contexts.get(each.context or "", {}) for run, each in zip(runs, (one, other), strict=True))
    return [(key, a[key], b[key]) for key in _PARTS if key in a and key in b]


def _named(a: Any, b: Any) -> str:
    names = _differing(a, b) if isinstance(a, Mapping) and isinstance(b, Mapping) else ""
    return f" ({names})" if names else ""


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Keys whose values differ, or that only one has."""
    a, b = _plain(dict(a)), _plain(dict(b))
    names = [key for key in {**a, **b} if key not in a or key not in b or a[key] != b[key]]
    left = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {left} more" if left > 0 else "")


def _plain(value: Any) -> Any:
    """As it is after it was stored."""
    return json.loads(json.dumps(value, default=str))
