"""Starts instrumentation in every Python process of a recording, once it has imported torch.

This folder is first on PYTHONPATH while recording, so that site imports this file in any child Python. It then runs the
sitecustomize that it stands before. It must do nothing that a process without torch could notice, cost it next to
nothing, and run in whatever Python the user's command starts, also one without tetrace: hence no import at the top.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def _first_find(name: str, skipped: object) -> "Any":
    """The spec of `name` that the import system finds without the finder `skipped`; None where there is none."""
    for finder in list(sys.meta_path):
        find_spec = getattr(finder, "find_spec", None)
        spec = find_spec(name, None) if find_spec is not None and finder is not skipped else None
        if spec is not None:
            return spec
    return None


class _AfterTorch:
    """A finder that finds nothing itself, and has the loader of torch start instrumentation when it is done."""

    def __init__(self) -> None:
        self.started = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        if name != "torch" or path is not None or self.started:
            return None
        spec = _first_find(name, self)
        load = getattr(getattr(spec, "loader", None), "exec_module", None)
        if load is None:
            return None

        def exec_module(module: "ModuleType") -> None:
            load(module)
            spec.loader.__dict__.pop("exec_module", None)
            if not self.started:
                self.started = True
                _start()

        try:
            spec.loader.exec_module = exec_module
        except AttributeError:
            return None
        return spec


class _OnlyTetrace:
    """Finds tetrace where it lies, for a Python without it, and nothing of what lies beside it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [self.folder]) if name == "tetrace" else None


def _start() -> None:
    """Start instrumentation. Whatever goes wrong, the user's script goes on without it."""
    try:
        import json
        from pathlib import Path

        if _first_find("tetrace", None) is None:
            sys.meta_path.append(_OnlyTetrace(str(Path(__file__).resolve().parents[3])))
        from tetrace.instrument.start import start

        start(Path(os.environ["TETRACE_RECORDING"]), json.loads(os.environ.get("TETRACE_OPTIONS") or "{}"))
    except Exception as error:
        told = " ".join(str(error).split())
        sys.stderr.write(f"tetrace: this process is not instrumented ({type(error).__name__}: {told})\n")


def _step_aside() -> None:
    """Take this folder off sys.path and run the sitecustomize that it hides, if there is one, as if it were first."""
    here = os.path.realpath(os.path.dirname(__file__))  # noqa: PTH120 - pathlib is not loaded yet
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.realpath(entry) != here]
    spec = _first_find("sitecustomize", None)
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    # What it raises is its own, and site reports it as it would have done.
    spec.loader.exec_module(module)


if os.environ.get("TETRACE_RECORDING") and sys.version_info >= (3, 10):
    sys.meta_path.insert(0, _AfterTorch())
_step_aside()
