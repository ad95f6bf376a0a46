"""The sitecustomize of a recording: what a child Python notices of it, and what it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tetrace

PACKAGE = Path(tetrace.__file__).parent
BOOTSTRAP = PACKAGE / "instrument" / "bootstrap"
# Stands before tetrace's own: says that it was started, and with what.
START = """
import json, sys
def start(folder, options):
    print("started", folder, json.dumps(options), "torch" in sys.modules and sys.modules["torch"].done)
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with a tetrace that only tells that it is started, and a torch."""
    folder = tmp_path / "packages"
    (folder / "tetrace" / "instrument").mkdir(parents=True)
    (folder / "tetrace" / "__init__.py").write_text("")
    (folder / "tetrace" / "instrument" / "__init__.py").write_text("")
    (folder / "tetrace" / "instrument" / "start.py").write_text(START)
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("done = False\nimport torch.nn\ndone = True\n")
    (folder / "torch" / "nn.py").write_text("")
    return folder


def python(code: str, *path: Path, options: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TETRACE"))}
    environ |= {"PYTHONPATH": os.pathsep.join(map(str, (BOOTSTRAP, *path))), "TETRACE_RECORDING": "/folder"}
    command = [sys.executable, *options, "-c", code]
    # Not in the checkout: -c looks for packages where it is called.
    return subprocess.run(
        command, capture_output=True, text=True, env={**environ, **variables}, cwd=BOOTSTRAP, check=False
    )


def said(code: str, *path: Path, options: tuple[str, ...] = (), **variables: str) -> list[str]:
    done = python(code, *path, options=options, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("how", ["import torch", "import torch.nn", "from torch import nn", "__import__('torch')"])
def test_it_starts_once_torch_is_imported(packages: Path, how: str) -> None:
    code = f"print('before')\n{how}\nprint('after')\nimport torch, importlib; importlib.reload(torch)"
    options = json.dumps({"ranges": "coarse"})
    expected = ["before", f"started /folder {options} True", "after"]
    assert said(code, packages, TETRACE_OPTIONS=options) == expected


def test_a_python_without_torch_notices_nothing(packages: Path) -> None:
    code = "import sys; print(sys.path, sorted(sys.modules), [type(f).__name__ for f in sys.meta_path])"
    with_it, without = said(code, packages), said(code, packages, TETRACE_RECORDING="")
    assert "started" not in with_it[0]
    assert with_it[0].replace("'_AfterTorch', ", "") == without[0]
    assert str(BOOTSTRAP) not in with_it[0]


@pytest.mark.parametrize("options", [("-I",), ("-E",), ("-S",)])
def test_a_python_that_asks_for_isolation_gets_it(packages: Path, options: tuple[str, ...]) -> None:
    assert said(f"import sys; sys.path.append({str(packages)!r}); import torch", packages, options=options) == []


def test_asking_whether_torch_is_there_starts_nothing(packages: Path) -> None:
    code = "import importlib.util as u; print(u.find_spec('torch').name); print(u.find_spec('torch.nn') is not None)"
    assert said(code, packages) == ["torch", "started /folder {} True", "True"]
    assert said("import importlib.util as u; print(u.find_spec('torch').name)", packages) == ["torch"]


def test_a_torch_that_is_broken_stays_as_broken(packages: Path) -> None:
    (packages / "torch" / "__init__.py").write_text("import no_such_module")
    code = "try:\n  import torch\nexcept ImportError as e:\n  print(e)\nimport sys; print('torch' in sys.modules)"
    assert said(code, packages) == ["No module named 'no_such_module'", "False"]


def test_a_failure_of_tetrace_does_not_reach_the_script(packages: Path) -> None:
    (packages / "tetrace" / "instrument" / "start.py").write_text("raise RuntimeError('a\\nb')")
    done = python("import torch; print('on')", packages)
    assert done.stdout == "on\n"
    assert done.stderr == "tetrace: this process is not instrumented (RuntimeError: a b)\n"


def test_the_sitecustomize_behind_it_runs(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nprint(__name__, __file__ == sys.modules['sitecustomize'].__file__, __spec__.origin)\nvalue = 7"
    )
    (tmp_path / "usercustomize.py").write_text("print('user')")
    lines = said("import sitecustomize; print(sitecustomize.value); import torch", tmp_path, packages)
    assert lines[0] == f"sitecustomize True {tmp_path / 'sitecustomize.py'}"
    assert lines[-2:] == ["7", "started /folder {} True"]


def test_the_error_of_the_sitecustomize_behind_it_is_told_as_ever(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise ValueError('theirs')")
    with_it = python("print(1)", tmp_path)
    without = python("print(1)", PYTHONPATH=str(tmp_path))
    assert (with_it.returncode, with_it.stdout, with_it.stderr) == (without.returncode, without.stdout, without.stderr)
    assert "theirs" in with_it.stderr


def test_children_are_started_too(packages: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])"
    assert said(code, packages) == ["started /folder {} True"]
    spawned = packages / "spawned.py"
    spawned.write_text(
        "import multiprocessing as m\ndef work():\n    import torch\n"
        "if __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=work); p.start(); p.join()\n"
    )
    assert said(f"import runpy; runpy.run_path({str(spawned)!r}, run_name='__main__')", packages)[-1:] == [
        "started /folder {} True"
    ]


def test_a_python_without_tetrace_finds_it_and_nothing_beside_it(packages: Path, tmp_path: Path) -> None:
    """In a virtual environment of its own."""
    copy = tmp_path / "elsewhere"
    bootstrap = copy / "tetrace" / "instrument" / "bootstrap"
    bootstrap.mkdir(parents=True)
    (bootstrap / "sitecustomize.py").write_text((BOOTSTRAP / "sitecustomize.py").read_text())
    for name in ("__init__.py", "instrument/__init__.py", "instrument/start.py"):
        (copy / "tetrace" / name).write_text((packages / "tetrace" / name).read_text())
    (copy / "neighbour.py").write_text("")
    (tmp_path / "torch.py").write_text("done = True")
    code = "import torch\ntry:\n  import neighbour\nexcept ImportError as e:\n  print(e)"
    environ = {"PYTHONPATH": os.pathsep.join([str(bootstrap), str(tmp_path)]), "TETRACE_RECORDING": "/folder"}
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    done = subprocess.run(
        [bare / "bin" / "python", "-c", code], capture_output=True, text=True, env=environ, cwd=bare, check=True
    )
    assert done.stdout.splitlines() == ["started /folder {} True", "No module named 'neighbour'"], done.stderr


def test_it_costs_a_python_without_torch_nothing_to_speak_of() -> None:
    def cost_us() -> int:
        lines = python("pass", options=("-X", "importtime")).stderr.splitlines()
        line = next(line for line in lines if line.rpartition("|")[2].strip() == "sitecustomize")
        return int(line.split("|")[1])

    assert min(cost_us() for _ in range(5)) < 5000
