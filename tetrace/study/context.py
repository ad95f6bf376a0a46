"""What a configuration is measured with: what of it must be alike for two to be compared, and what has changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tetrace.study.results import Configuration
from tetrace.study.spec import Measure, Planned

# Variables of the environment that change what libraries do, and endings of those that only say where something lies.
_VARIABLES = ("NVTE_", "CUDA_", "CUBLAS", "NCCL_", "OMP_", "MKL_", "TORCH", "PYTORCH_", "TRITON", "FLASH_ATTENTION")
_PLACES = ("_HOME", "_PATH", "_DIR")
# Of a machine; another start may give it other GPUs beside the one in use.
MACHINE = ("gpu", "driver", "cpu", "cores")
_MOST_WORDS = 3


@dataclass(frozen=True)
class Context:
    """`document`: machine, versions, measure and environment, as study.json has it; `digest` names it there."""

    document: Mapping[str, Mapping[str, Any]]
    digest: str


def context_of(
    machine: Mapping[str, Any], versions: Mapping[str, str], measure: Measure, device: str, environ: Mapping[str, str]
) -> Context:
    """What is measured with now."""
    document: dict[str, Mapping[str, Any]] = {
        "machine": {key: machine.get(key) for key in MACHINE},
        "versions": dict(versions),
        "measure": {
            "device": device,
            "warmup": measure.warmup,
            "steps": measure.steps,
            "own_caches": measure.own_caches,
            "cpus": measure.cpus,
        },
        "environment": {
            name: value
            for name, value in sorted(environ.items())
            if name.startswith(_VARIABLES) and not name.endswith(_PLACES)
        },
    }
    return Context(document, _digest(document))


def key_of(planned: Planned, context: Context) -> str:
    """The same for what would measure the same: options, environment, and the context."""
    return _digest([planned.options, planned.environment, context.digest])


def changes(stored: Configuration, before: Mapping[str, Any] | None, planned: Planned, now: Context) -> str:
    """In words, what is another than when a configuration was measured with the context `before`: `torch 2.10 -> 2.11`.

    Empty where nothing is. `before` is None where it is not known.
    """
    if before is None:
        return "what it was measured with is not known"
    pairs = [(stored.options, planned.options), (stored.environment, planned.environment)]
    pairs += [(before.get(part, {}), now.document[part]) for part in now.document]
    found = [words for old, new in pairs for words in _changed(old, new)]
    more = [f"{len(found) - _MOST_WORDS} more"] if len(found) > _MOST_WORDS else []
    return ", ".join([*found[:_MOST_WORDS], *more])


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield f"{key} {old.get(key, 'not there')} -> {new.get(key, 'not there')}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
