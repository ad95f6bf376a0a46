"""Recordings with bytes and values replaced at random: one line against them, or a report."""

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

import tetrace
from tests.sources.exports import Export, process_id, thread_id
from tests.sources.readings import DATA, complaint


@pytest.fixture(scope="module")
def small_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first two steps of te4-fp8: small enough that a flipped bit often means something."""
    path = tmp_path_factory.mktemp("fuzz") / "run.sqlite"
    shutil.copyfile(DATA / "te4-fp8.sqlite", path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA secure_delete = OFF")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            if table.startswith("ENUM"):
                database.execute(f"DROP TABLE {table}")
            elif "start" in names:
                database.execute(f"DELETE FROM {table} WHERE rowid > 300")
    with sqlite3.connect(path) as database:
        database.execute("VACUUM")
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(10))
def test_damaged_databases(seed: int, small_database: bytes, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path = tmp_path / "run.sqlite"
    for _ in range(20):
        damaged = bytearray(small_database)
        for _ in range(chance.choice([1, 3, 30, 300])):
            damaged[chance.randrange(16, len(damaged))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        assert len(complaint(path).splitlines()) <= 1


def test_the_fuzzed_database_is_whole(small_database: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_bytes(small_database)
    breakdown = tetrace.analyze(tetrace.load(tmp_path / "run.sqlite"), steps="all")
    assert breakdown.totals.activities > 300


@pytest.mark.parametrize("seed", range(4))
def test_damaged_values(seed: int, tmp_path: Path) -> None:
    """Numbers and texts of whole tables replaced at random: what SQLite itself cannot see."""
    chance = random.Random(seed)
    odd = [None, -1, 0, 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, -(2**63), "", "text", b"\xff", 1.5, 1e300]
    for case in range(15):
        path = _varied(chance).sqlite(tmp_path / f"{case}.sqlite")
        with sqlite3.connect(path) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for _ in range(chance.choice([1, 2, 5])):
                table = chance.choice(names)
                column = chance.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")])
                rows = "1" if chance.random() < 0.2 else f"rowid % {chance.randrange(1, 20)} = 0"
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {rows}", (chance.choice(odd),))
        assert len(complaint(path).splitlines()) <= 1


def _varied(chance: random.Random) -> Export:
    """Two processes that train for four steps, with something in every table."""
    export = (
        Export().synchronization(31, 32, 2).synchronization(31, 37, 4).overhead("o", 3, 4).overhead("full", 5, 9, 8)
    )
    for process in (1, 2):
        for step in range(4):
            at = step * 1000 + process * chance.randrange(100)
            export.range(f"step_{step}", at, at + 900, process=process)
            for i, name in enumerate(("forward", "nvte_cublas_gemm", "backward", "optimizer")):
                begin = at + i * 200
                export.range(name, begin, begin + 190, process=process)
                export.launch(f"{name}_kernel", (begin + 9, begin + 20), (begin + 30, begin + 150), process=process)
                export.launch(
                    "nvjet_qqtst_128x256", (begin + 21, begin + 25), (begin + 150, begin + 180), process=process
                )
        export.copy(5000, 5010, process=process).memset(5010, 5020, process=process)
    export.node(5, 1).node(6, 2, original=5).graph(6000, 6100, correlation=70)
    export.rows("ThreadNames", {"nameId": export.text_id("pt_autograd_0"), "globalTid": thread_id(1, 2)})
    export.rows("PROCESSES", {"globalPid": process_id(1), "pid": 1, "name": "python"})
    export.rows("TARGET_INFO_GPU", {"id": 0, "name": "GPU", "cuDevice": 0}).rows("TARGET_INFO_CUDA_DEVICE")
    export.rows("DIAGNOSTIC_EVENT", {"severity": 2, "text": "5 events lost"})
    return export.rows("META_DATA_CAPTURE", {"name": "A:MODE", "value": "x"}).rows("META_DATA_EXPORT")
