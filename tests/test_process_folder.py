"""The folder of a program: one for all that ask in it, another one for the next program of the same process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tetrace import _C


def run(script: str, folder: Path) -> list[str]:
    """What a process of its own prints, line by line; its folder of a recording is `folder`."""
    begin = "import os, sys\nfrom tetrace import _C\nfolder = sys.argv[1]\n"
    command = [sys.executable, "-c", begin + textwrap.dedent(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_it_is_made_once(tmp_path: Path) -> None:
    own = _C.process_folder(str(tmp_path))
    assert own == str(tmp_path / f"process-{os.getpid()}")
    assert _C.process_folder(str(tmp_path)) == own
    assert [path.name for path in tmp_path.iterdir()] == [Path(own).name]
    [mark] = Path(own).iterdir()
    assert (mark.name.startswith("image-"), mark.stat().st_size) == (True, 0)


def test_each_program_of_a_process_has_its_own(tmp_path: Path) -> None:
    again = "if len(sys.argv) < 5: os.execv(sys.executable, [*sys.orig_argv, 'again'])"
    printed = run(f"print(_C.process_folder(folder), os.getpid(), flush=True)\n{again}", tmp_path)
    (first, pid), *others = (line.split() for line in printed)
    assert Path(first).name == f"process-{pid}"
    assert others == [[f"{first}-1", pid], [f"{first}-2", pid], [f"{first}-3", pid]]


def test_a_forked_child_has_that_of_its_pid(tmp_path: Path) -> None:
    script = """
        own = _C.process_folder(folder)
        if os.fork() == 0:
            print(_C.process_folder(folder) == f"{folder}/process-{os.getpid()}", flush=True)
            os._exit(0)
        os.wait()
        print(_C.process_folder(folder) == own)
    """
    assert run(script, tmp_path) == ["True", "True"]


def test_what_another_has_left_is_not_touched(tmp_path: Path) -> None:
    """A process with the same number: on another machine, or one that is gone."""
    others = tmp_path / f"process-{os.getpid()}"
    others.mkdir()
    (others / "image-0123456789abcdef").touch()
    assert _C.process_folder(str(tmp_path)) == f"{others}-1"
    assert [path.name for path in others.iterdir()] == ["image-0123456789abcdef"]


@pytest.mark.parametrize("taken", [False, True])
def test_threads_that_ask_at_once_get_one(taken: bool, tmp_path: Path) -> None:
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        if taken:
            (folder / f"process-{os.getpid()}").mkdir()
        begin, found = threading.Barrier(8), set()

        def ask(folder: Path = folder, begin: threading.Barrier = begin, found: set[str] = found) -> None:
            begin.wait()
            found.add(_C.process_folder(str(folder)))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
        assert len(list(folder.iterdir())) == (2 if taken else 1)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        _C.process_folder(str(tmp_path / "gone"))
