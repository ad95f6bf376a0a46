"""Functions that run once a module has been imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tetrace.instrument.imports import after_import


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable package with a module `inner` that imports it back."""
    (tmp_path / "awaited").mkdir()
    (tmp_path / "awaited" / "__init__.py").write_text("from awaited import inner\nready = True\n")
    (tmp_path / "awaited" / "inner.py").write_text("import awaited\nseen = hasattr(awaited, 'ready')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "awaited"
    for name in [name for name in sys.modules if name.partition(".")[0] == "awaited"]:
        del sys.modules[name]


def test_it_runs_when_the_module_is_whole(package: str) -> None:
    found: list[bool] = []
    after_import(package, lambda: found.append(sys.modules[package].ready))
    assert found == []
    importlib.import_module(package)
    importlib.import_module(package)
    assert found == [True]


def test_it_runs_at_once_when_the_module_is_there(package: str) -> None:
    importlib.import_module(package)
    found: list[bool] = []
    after_import(package, lambda: found.append(True))
    assert found == [True]


def test_submodules_and_several_callbacks(package: str) -> None:
    found: list[str] = []
    after_import(f"{package}.inner", lambda: found.append("inner"))
    after_import(package, lambda: found.append("first"))
    after_import(package, lambda: found.append("second"))
    importlib.import_module(package)
    assert found == ["inner", "first", "second"]


def test_a_forgotten_callback_does_not_run(package: str) -> None:
    found: list[bool] = []
    after_import(package, lambda: found.append(True))()
    importlib.import_module(package)
    assert found == []


def test_the_module_looks_as_it_would_have(package: str) -> None:
    after_import(package, lambda: None)
    module = importlib.import_module(package)
    assert "exec_module" not in vars(module.__loader__)
    assert module.__spec__.loader is module.__loader__


def test_a_missing_module_is_still_missing() -> None:
    forget = after_import("no_such_module_anywhere", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        importlib.import_module("no_such_module_anywhere")
    forget()
