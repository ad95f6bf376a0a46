"""Who may import whom, held over every module under tetrace/ (docs/architecture.md says why)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tetrace"

# A room may import itself, these, and what ANYONE may import. Rooms that are not built yet have their place.
ANYONE = {"errors", "loaded", "units"}
MAY_IMPORT = {
    "errors": set(),
    "loaded": set(),
    "units": set(),
    "trace": set(),
    "sources": {"trace", "fp8", "_C"},
    "fp8": {"trace", "_C"},
    "instrument": {"fp8", "_C"},
    "record": {"trace", "sources", "instrument", "_C"},
    "attribute": {"trace", "_C"},
    "breakdown": {"trace", "attribute", "fp8", "_C"},
    "report": {"trace", "attribute", "breakdown"},
    # A worker of a study is a script in tetrace's own package: it calls tetrace.step(), as a user's script does.
    "study": {"", "trace", "record", "sources", "attribute", "breakdown", "report", "fp8"},
    "cli": {"", "trace", "sources", "record", "attribute", "breakdown", "report", "study", "fp8", "instrument", "_C"},
    "": {"trace", "sources", "attribute", "breakdown", "report", "fp8", "instrument", "record"},  # tetrace/__init__.py
    "__main__": {"cli"},
}

# Path prefixes under tetrace/ that may import a package of the GPU machine. What asks TE what it supports here is a file
# of its own, since only a child process of `tetrace doctor` loads it: a TE that does not import must not break doctor.
ONLY_IN = {
    # study/worker.py is the process of a workload: it runs only where model.py has torch. The template is such a model.py.
    "torch": (
        "instrument/",
        "record/",
        "fp8/tensor_stats.py",
        "fp8/reference.py",
        "study/worker.py",
        "study/template/",
    ),
    "transformer_engine": ("instrument/transformer_engine.py", "instrument/te_probe.py"),
}

# `tetrace --help` and a small report must start fast: these load inside the functions that need them.
HEAVY = {"adbc_driver_manager", "adbc_driver_sqlite", "numpy", "pandas", "pyarrow", "torch", "transformer_engine"}
LIGHT = ("cli/", "__init__.py", "__main__.py", "errors.py", "units.py")


def room_of(path: str) -> str:
    """The room of a module, from its path under tetrace/; tetrace/__init__.py is the room ''."""
    parts = Path(path).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path: str, node: ast.AST) -> Iterator[str]:
    """Dotted names of the modules that `node` imports, relative ones resolved."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = ("tetrace", *Path(path).parent.parts)
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join((*base, node.module) if node.module else base)
        # What is imported from the top of the package may be a room, or a public name that it loads lazily.
        yield from (f"tetrace.{a.name}" for a in node.names) if module == "tetrace" else (module,)


def at_the_top(tree: ast.Module) -> set[ast.AST]:
    """Imports that run when the module is imported: outside functions and `if TYPE_CHECKING`."""
    found: set[ast.AST] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.add(node)
            waiting.extend(ast.iter_child_nodes(node))
    return found


def complaint(path: str, name: str, runs_at_import: bool) -> str | None:
    """The rule that is broken when the module at `path` imports `name`."""
    room = room_of(path)
    top, _, rest = name.partition(".")
    if top == "tetrace":
        target = rest.partition(".")[0]
        target = target if target in MAY_IMPORT or target == "_C" else ""
        if target not in {room} | ANYONE | MAY_IMPORT[room]:
            allowed = ", ".join(sorted(MAY_IMPORT[room] - {""} | ANYONE))
            return f"{room or '__init__'} may import only {allowed}; not {target or 'the top of the package'}"
    if top in ONLY_IN and not path.startswith(ONLY_IN[top]):
        return f"{top} is imported only in {', '.join(ONLY_IN[top])}"
    if top in HEAVY and path.startswith(LIGHT) and runs_at_import:
        return f"{top} is loaded inside the function that needs it: what starts with the command line stays light"
    return None


def violations(path: str, source: str) -> list[str]:
    """`file:line: imports X: rule` for every import in `source` that breaks a rule."""
    if room_of(path) not in MAY_IMPORT:
        return [f"tetrace/{path}:1: room '{room_of(path)}' is not in MAY_IMPORT: say there what it may import"]
    tree = ast.parse(source)
    runs_at_import = at_the_top(tree)
    return [
        f"tetrace/{path}:{node.lineno}: imports {name}: {rule}"
        for node in ast.walk(tree)
        for name in imported(path, node)
        if (rule := complaint(path, name, node in runs_at_import))
    ]


def test_every_module_imports_what_its_room_may():
    found = [
        violation
        for file in sorted(PACKAGE.rglob("*.py"))
        for violation in violations(file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


def test_imports_go_one_way():
    """No room reaches itself through what it may import."""
    for room in MAY_IMPORT.keys() - {""}:
        reached, waiting = set(), list(MAY_IMPORT[room] - {""})
        while waiting:
            next_room = waiting.pop()
            if next_room not in reached:
                reached.add(next_room)
                waiting.extend(MAY_IMPORT.get(next_room, ()))
        assert room not in reached, f"{room} can reach itself"


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        (
            "trace/store.py",
            "from tetrace.sources.nsys import read",
            "trace may import only errors, loaded, units; not sources",
        ),
        (
            "trace/store.py",
            "def f():\n    from ..sources import nsys",
            "tetrace/trace/store.py:2: imports tetrace.sources",
        ),
        ("report/html.py", "import tetrace.cli.main", "not cli"),
        ("report/html.py", "from tetrace import cli", "not cli"),
        ("breakdown/kernels.py", "from tetrace import load", "not the top of the package"),
        ("attribute/link.py", "import torch.cuda", "torch is imported only in"),
        ("fp8/scales.py", "def f():\n    import torch", "torch is imported only in"),
        ("instrument/ranges.py", "import transformer_engine.pytorch as te", "only in instrument/transformer_engine.py"),
        ("cli/report.py", "import pandas as pd", "stays light"),
        ("__init__.py", "try:\n    import numpy\nexcept ImportError:\n    pass", "__init__.py:2: imports numpy"),
        ("helpers/things.py", "", "room 'helpers' is not in MAY_IMPORT"),
    ],
)
def test_a_broken_rule_is_found(path, source, rule):
    assert any(rule in violation for violation in violations(path, source)), violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("trace/store.py", "import json\nfrom tetrace.errors import InputError\nfrom .schema import TABLES"),
        ("attribute/link.py", "from tetrace import _C\nimport numpy as np"),
        ("cli/report.py", "def f():\n    import pandas\n    from tetrace.report import terminal"),
        ("cli/report.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas"),
        ("cli/report.py", "import tetrace\nfrom tetrace import load"),
        ("fp8/reference.py", "import torch"),
        ("instrument/transformer_engine.py", "import transformer_engine"),
    ],
)
def test_what_is_allowed_is_left_alone(path, source):
    assert violations(path, source) == []


def test_the_command_line_starts_without_heavy_packages():
    """Also when a light module reaches a heavy one through another."""
    commands = [file.stem for file in sorted((PACKAGE / "cli").glob("*.py")) if file.stem != "__init__"]
    modules = ["tetrace", *(f"tetrace.cli.{command}" for command in commands)]
    script = f"""
import importlib, json, sys
for module in {modules}:
    importlib.import_module(module)
print(json.dumps(sorted(set(sys.modules) & {HEAVY})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
