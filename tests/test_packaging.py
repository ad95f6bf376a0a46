"""What the collector's library may need and show, since it is loaded into any process; and what the packages have."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tetrace import _C
from tetrace.record.build import LIBRARY

ROOT = Path(__file__).parent.parent
C_LIBRARY = ("libc.so", "libdl.so", "libpthread.so", "libm.so", "librt.so", "ld-linux")
SHOWN = {
    "InitializeInjection",
    "InitializeInjectionNvtx2",
    *(f"tetrace_collector_{what}" for what in ("start", "stop", "flush", "yield", "resume", "state")),
}

needs_library = pytest.mark.skipif(
    shutil.which("readelf") is None or not LIBRARY.exists(), reason="needs readelf and a build with the collector"
)


def readelf(*options: str, file: Path = LIBRARY) -> str:
    """What readelf says of a library."""
    return subprocess.run(["readelf", "-W", *options, file], capture_output=True, text=True, check=True).stdout


def shown(file: Path) -> set[str]:
    """The symbols that others can find in a library."""
    symbols = [line.split() for line in readelf("--dyn-syms", file=file).splitlines()]
    return {columns[7] for columns in symbols if len(columns) == 8 and columns[6].isdigit()}


def test_what_a_page_is_made_of_is_packaged() -> None:
    from tetrace.report.html.page import SCRIPTS

    packaged = re.search(r'^"\*" = \[(.+?)^\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert packaged
    assert '"templates/*"' in packaged[1]
    files = {file.name for file in (ROOT / "tetrace/report/html/templates").iterdir()}
    assert files == {"report.html", "report.css", *SCRIPTS}


@needs_library
def test_the_collector_needs_the_c_library_alone() -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("-d"))
    assert needed
    assert [name for name in needed if not name.startswith(C_LIBRARY)] == []


@needs_library
def test_the_collector_shows_its_entries_alone() -> None:
    assert shown(LIBRARY) == SHOWN


@needs_library
def test_the_extension_shows_its_entry_alone() -> None:
    """A compiler may link the C++ library in. Were its symbols bound to PyTorch's, every exception would crash."""
    assert shown(Path(_C.__file__)) == {"PyInit__C"}


@needs_library
def test_the_collector_is_small_and_stripped() -> None:
    assert LIBRARY.stat().st_size < 1_000_000
    assert ".symtab" not in readelf("-S")


def test_studies_are_packaged_without_their_recordings(tmp_path: Path) -> None:
    """What a wheel takes, from a copy with results; the extension is not built."""
    copy, built = tmp_path / "copy", tmp_path / "built"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("results", "__pycache__", "*.so")
    for folder in ("tetrace", "profiles"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    results = copy / "profiles/fusion/results/h200"
    (results / "fused-none.tetrace").mkdir(parents=True)
    kept = ("REPORT.md", "report.json", "study.json")
    for name in (*kept, "report.html", "steps.csv", "fused-none.tetrace/metadata.json"):
        (results / name).write_text("{}")
    shutil.copytree(results, results.with_name("h200-2026-11-21"))
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", built]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packaged = built / "tetrace/profiles"
    studies = {file.parent.name for file in ROOT.glob("profiles/*/study.toml")}
    assert len(studies) >= 5
    assert {folder.name for folder in packaged.iterdir() if folder.is_dir()} == studies
    for study in studies:
        assert (packaged / study / "study.toml").read_bytes() == (ROOT / "profiles" / study / "study.toml").read_bytes()
        assert (packaged / study / "model.py").exists()
    assert {file.name for file in packaged.glob("*.py")} >= {"recipes.py", "flops.py"}
    found = packaged / "fusion/results"
    assert {file.relative_to(found).as_posix() for file in found.rglob("*") if file.is_file()} == {
        f"h200/{name}" for name in kept
    }
    template = built / "tetrace/study/template"
    assert {file.name for file in template.iterdir()} == {"study.toml", "model.py"}
    # An installed package finds them within itself, a checkout beside.
    finds = "from tetrace.study import shipped; print(shipped.folder())"
    for root, folder in ((built, packaged), (ROOT, ROOT / "profiles")):
        asked = subprocess.run([sys.executable, "-c", finds], cwd=root, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert Path(asked.stdout.strip()) == folder.resolve()


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a checkout")
def test_the_sdist_has_every_file_of_the_build() -> None:
    sources = ["*.cpp", "*.cu", "*.cuh", "*.h", "*.map", "*.cmake"]
    listed = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *sources]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    manifest = (ROOT / "MANIFEST.in").read_text()
    grafted = tuple(f"{folder}/" for folder in re.findall(r"^graft (\S+)$", manifest, re.MULTILINE))
    packaged = ("tetrace/", "tests/", "profiles/", "benchmarks/")
    assert [name for name in files if not name.startswith((*grafted, *packaged))] == []
