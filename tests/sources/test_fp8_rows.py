"""`fp8-rows.bin` and `fp8-scales.bin` of processes, as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tetrace.errors import InputError
from tetrace.fp8 import recorded, rows
from tetrace.fp8.health import check_health
from tetrace.sources import fp8, sidecar
from tetrace.sources.sites import Sites, processes_of, words
from tetrace.trace.trace import Metadata, Trace, make_table

SITES = [
    {"kind": "fp8", "module": "up", "role": "input", "phase": "forward", "call": "quantize", "format": "E4M3",
     "scaling": "current", "dtype": "bfloat16", "shape": "4x8"},
    {"kind": "fp8", "module": "up", "role": "output", "phase": "forward", "call": "Linear", "source": "check"},
]  # fmt: skip


def rows_of(*given: dict[str, Any]) -> Any:
    made = np.zeros(len(given), rows.ROW)
    for row, values in zip(made, given, strict=True):
        for name, value in values.items():
            row[name] = value
    return made


def process(folder: Path, pid: int, *chunks: bytes, scales: Any = None) -> None:
    own = folder / f"process-{pid}"
    own.mkdir()
    (own / "process.json").write_text(json.dumps({"pid": pid}))
    lines = [json.dumps({"site": number, "name": "", **site}) for number, site in enumerate(SITES)]
    (own / "sites.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (own / recorded.ROWS_FILE).write_bytes(recorded.ROWS_HEADER + b"".join(chunks))
    if scales is not None:
        (own / recorded.SCALES_FILE).write_bytes(recorded.SCALES_HEADER + scales.tobytes())


def read(folder: Path) -> dict[str, Any]:
    processes = processes_of(folder)
    tables = fp8.read(processes, {one.key: row for row, one in enumerate(processes)})
    # Whoever reads them checks them.
    return {name: table.to_pandas() for name, table in Trace(Metadata("", ""), tables).tables.items()}


KNOWN = rows.FORMAT_KNOWN | 1 << rows.FORMAT_SHIFT


def packed(*bins):
    """Histograms of (order, bin, count), those of an order beside each other."""
    counts = {}
    for order, place, count in bins:
        counts.setdefault(order, np.zeros(2048, np.uint32))[place] = count
    return b"".join(recorded.packed(order, own) for order, own in counts.items())


def test_a_row_is_its_numbers_and_what_its_site_says(tmp_path):
    row = {"order": 5, "elements": 10, "zeros": 1, "nans": 1, "infs": 1, "saturated": 2, "flushed": 3, "subnormal": 1,
           "sum": 16.0, "square_sum": 64.0, "squared_error": 0.5, "site": 0, "step": 7, "amax": 3.0, "smallest": 0.5,
           "scale": 2.0, "whole": 32, "flags": KNOWN}  # fmt: skip
    process(tmp_path, 11, recorded.chunk(rows_of(row).tobytes()))
    tables = read(tmp_path)
    assert list(tables) == ["fp8_tensors"]
    (found,) = tables["fp8_tensors"].to_dict("records")
    assert np.isnan(found.pop("scale_min"))
    assert np.isnan(found.pop("scale_max"))
    assert found == {
        "process": 0, "step": 7, "order": 5, "module": "up", "role": "input", "phase": "forward", "operation": "quantize",
        "source": "input", "format": "E4M3", "scaling": "current", "dtype": "bfloat16", "shape": "4x8", "elements": 10,
        "tensor_elements": 32, "zeros": 1, "nans": 1, "infs": 1, "saturated": 2, "flushed": 3, "subnormal": 1,
        "amax": 3.0, "smallest": 0.5,
        "mean": 2.0, "mean_square": 8.0, "squared_error": 0.5, "scale": 2.0,
    }  # fmt: skip


def test_what_was_not_known_is_missing(tmp_path):
    """A check has no format, codes have no error, and a tensor without finite values no mean."""
    given = [
        {"order": 0, "site": 1, "elements": 2, "nans": 2, "saturated": 9},
        {"order": 1, "site": 0, "elements": 2, "squared_error": 3.0, "flags": KNOWN | rows.QUANTIZED},
    ]
    process(tmp_path, 11, recorded.chunk(rows_of(*given).tobytes()))
    check, codes = read(tmp_path)["fp8_tensors"].to_dict("records")
    assert (check["source"], check["format"], check["saturated"], check["flushed"]) == ("check", "", -1, -1)
    assert np.isnan([check["mean"], check["mean_square"], check["scale"], check["squared_error"]]).all()
    assert (codes["source"], codes["saturated"], codes["flushed"]) == ("quantized", 0, -1)
    assert np.isnan(codes["squared_error"])


def test_processes_chunks_histograms_blocks_and_scales(tmp_path):
    bins = packed((1, 1016, 3), (0, 1018, 4))
    blocks = np.array([(0, 2, 127, 5)], recorded.BLOCK)
    later = recorded.chunk(rows_of({"order": 1, "step": 1}).tobytes(), bins, blocks.tobytes())
    earlier = recorded.chunk(rows_of({"order": 0, "step": 0}).tobytes())
    scales = np.array([(0, 3, 1.0, 2.0, 448.0, 0.0, 16, 2)], recorded.SCALE)
    process(tmp_path, 12, later, earlier, scales=scales)
    process(tmp_path, 11, recorded.chunk(rows_of({"order": 0, "step": 4}).tobytes()))
    tables = read(tmp_path)
    seen = tables["fp8_tensors"]
    assert list(zip(seen["process"], seen["order"], seen["step"], strict=True)) == [(0, 0, 4), (1, 0, 0), (1, 1, 1)]
    assert tables["fp8_histograms"].values.tolist() == [[1, 0, 1018, 4], [1, 1, 1016, 3]]
    assert tables["fp8_blocks"].values.tolist() == [[1, 0, "128x128", 127, 5]]
    (scale,) = tables["fp8_scales"].to_dict("records")
    assert scale == {
        "process": 1, "step": 3, "direction": "", "module": "up", "role": "input", "format": "E4M3", "scale": 1.0,
        "next_scale": 2.0, "amax": 448.0, "history_max": 0.0, "history_length": 16, "history_used": 2,
    }  # fmt: skip


@pytest.mark.parametrize("cut", range(1, 288, 29))
def test_a_file_that_a_crash_cut_off_gives_what_is_whole(tmp_path, cut):
    bins = packed((0, 1016, 3))
    first = recorded.chunk(rows_of({"order": 0}).tobytes(), bins)
    bins = packed((1, 1016, 3))
    second = recorded.chunk(rows_of({"order": 1}, {"order": 2}).tobytes(), bins)
    process(tmp_path, 11, first, second)
    path = tmp_path / "process-11" / recorded.ROWS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    left = recorded.read_rows(path)
    assert left.rows["order"].tolist() == list(range(len(left.rows)))
    lost = max(0, cut - 16)
    assert len(left.rows) == max(3 - -(-lost // rows.ROW.itemsize), 1)
    assert left.bins["order"].tolist() == [0]


def test_half_a_histogram_is_none(tmp_path):
    bins = packed((0, 1016, 3), (0, 1018, 1), (1, 1016, 2), (1, 1018, 2))
    process(tmp_path, 11, recorded.chunk(rows_of({"order": 0}, {"order": 1}).tobytes(), bins)[:-1])
    left = recorded.read_rows(tmp_path / "process-11" / recorded.ROWS_FILE)
    assert left.rows["order"].tolist() == [0, 1]
    assert left.bins["order"].tolist() == [0, 0]


@pytest.mark.parametrize("content", [b"", b"something else entirely", recorded.ROWS_HEADER[:8]])
def test_files_of_another_kind_hold_nothing(tmp_path, content):
    process(tmp_path, 11)
    (tmp_path / "process-11" / recorded.ROWS_FILE).write_bytes(content)
    assert len(read(tmp_path)["fp8_tensors"]) == 0


@pytest.mark.parametrize("beside", [False, True])
def test_rows_of_another_version_are_told_and_lose_nothing_else(tmp_path, beside):
    """In a notice, and where FP8 is asked for in place of "none were recorded"; other processes are read."""
    process(tmp_path, 11)
    (tmp_path / "process-11" / recorded.ROWS_FILE).write_bytes(recorded.ROWS_HEADER[:8] + b"\1\0\0\0" + b"\xff" * 400)
    if beside:
        process(tmp_path, 12, recorded.chunk(rows_of({"order": 0, "elements": 4}).tobytes()))
    found = processes_of(tmp_path)
    table = {"processes": np.arange(len(found), dtype=np.int32)}
    pids = np.array([one.pid for one in found], np.int64)
    columns = {
        "process": table["processes"],
        "global_id": pids << 24,
        "pid": pids,
        "name": words(["python"] * len(found)),
    }
    bare = Trace(Metadata("run.tetrace", ""), {"processes": make_table("processes", columns, len(found))})
    trace = sidecar.attach(bare, tmp_path, found, Sites(found))
    assert recorded.UNREADABLE in trace.metadata.notices
    assert trace.rows("processes") == len(found)
    if beside:
        assert trace.column("fp8_tensors", "process").tolist() == [1]
    else:
        with pytest.raises(InputError, match="the FP8 rows are of another version of tetrace and left out: read"):
            check_health(trace)
    assert fp8.read_folder(tmp_path).metadata.notices == (recorded.UNREADABLE,)


def test_without_fp8_there_are_no_tables(tmp_path):
    process(tmp_path, 11)
    (tmp_path / "process-11" / recorded.ROWS_FILE).unlink()
    assert read(tmp_path) == {}


def test_rows_of_unknown_sites_are_kept(tmp_path):
    process(tmp_path, 11, recorded.chunk(rows_of({"order": 0, "site": 99, "elements": 3}).tobytes()))
    (row,) = read(tmp_path)["fp8_tensors"].to_dict("records")
    assert (row["module"], row["role"], row["elements"]) == ("", "", 3)
