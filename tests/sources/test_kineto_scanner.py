"""The scanner of Chrome traces: exact numbers, any pieces, any layout, and files that are not quite JSON."""

from __future__ import annotations

import itertools
import json
import re
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tetrace import _C


def scan(*pieces):
    """What the scanner finds in the pieces of a file, arrays as lists and names in place of their codes."""
    scanner = _C.KinetoScanner()
    for piece in pieces:
        scanner.feed(piece)
    found = scanner.finish()
    tables = {}
    for category, (columns, words) in found["tables"].items():
        if len(columns["start_ns"]):
            tables[category] = {name: values.tolist() for name, values in columns.items()}
            tables[category]["name"] = [words[code] for code in columns["name"]]
    return {**found, "tables": tables}


def annotation(name='"step"', ts="1", dur="1", rest=""):
    """Text of an event, its values as they are to stand in the file."""
    return (
        f'{{"ph": "X", "cat": "user_annotation", "name": {name}, "pid": 1, "tid": 1, "ts": {ts}, "dur": {dur}{rest}}}'
    )


def file_of(*events):
    return f'{{"traceEvents": [{", ".join(events)}]}}'.encode()


def times(ts, dur="0"):
    columns = scan(file_of(annotation(ts=ts, dur=dur)))["tables"]["user_annotation"]
    return columns["start_ns"][0], columns["end_ns"][0]


@pytest.mark.parametrize(
    ("ts", "ns"),
    [
        ("1428625731641.29", 1_428_625_731_641_290),
        ("1661938466265032.123", 1_661_938_466_265_032_123),  # float64 is 128 ns coarse there
        ("1661938466265032", 1_661_938_466_265_032_000),
        ("0.001", 1),
        ("0.0004", 0),
        ("0.0005", 1),
        ("0.00049999999999999999999999", 0),
        ("-1.0005", -1_001),
        ("1.5e3", 1_500_000),
        ("15E-4", 2),
        ("1e-4", 0),
        ("123456789.123456e+3", 123_456_789_123_456),
        ("000000000000000000000000000000000007.25", 7_250),
        ("9223372036854775.807", 2**63 - 1),
        ('"1000.500"', 1_000_500),
    ],
)
def test_decimal_microseconds_become_exact_nanoseconds(ts, ns):
    assert times(ts) == (ns, ns)


def test_start_and_duration_are_rounded_each_on_its_own():
    assert times("10.0005", "2.0005") == (10_001, 12_002)


@given(st.decimals(-(10**12), 10**12, allow_nan=False), st.booleans())
def test_any_decimal_is_rounded_half_up(value, in_exponents):
    text = f"{value:e}" if in_exponents else f"{value:f}"
    expected = int((value * 1000).quantize(Decimal(1), ROUND_HALF_UP))
    assert times(text) == (expected, expected)


@pytest.mark.parametrize("ts", ["null", '"soon"', "1.2.3", "--1", "1e", "9223372036854775.808", "1e400", "N/A", "{}"])
def test_an_event_without_a_time_is_left_out_and_counted(ts):
    found = scan(file_of(annotation(ts=ts), annotation(dur=ts), annotation()))
    assert found["untimed"] == 2
    assert len(found["tables"]["user_annotation"]["start_ns"]) == 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r'"a\"b\\c\/d\b\f\n\r\t"', b'a"b\\c/d\b\f\n\r\t'),
        (r'"\u0041\u00e9\u20AC"', "Aé€".encode()),
        (r'"\ud83d\ude00"', "😀".encode()),
        (r'"\ud83d!"', "\ufffd!".encode()),
        (r'"\ud83d\ud83d\ude00"', "\ufffd😀".encode()),
        (r'"\ude00"', "\ufffd".encode()),
        (r'"torch\cuda\_init, \u12"', rb"torch\cuda\_init, \u12"),  # PyTorch on Windows
        ('"é € 😀"', "é € 😀".encode()),
        ('""', b""),
    ],
)
def test_escapes_in_names(text, name):
    assert scan(file_of(annotation(name=text)))["tables"]["user_annotation"]["name"] == [name]


def test_a_name_of_100_kilobytes():
    name = "x" * 100_000
    assert scan(file_of(annotation(name=f'"{name}"')))["tables"]["user_annotation"]["name"] == [name.encode()]


KERNEL = {
    "args": {"grid": [7, 8, 9], "block": [64, 2, 1], "stream": 7, "device": 1, "correlation": 5, "bytes": 12,
             "registers per thread": 32, "shared memory": 1024, "graph node id": 77, "blocks per SM": [[0.5], "]"]},
    "dur": 2.5, "ts": 10.25, "tid": 7, "pid": 1, "name": "k<{\"]\\>", "cat": "kernel", "ph": "X",
}  # fmt: skip
OTHERS = [
    {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 2, "ts": 1, "dur": 9,
     "args": {"External id": 3, "Sequence number": 41, "Input Dims": [[2, 3], []], "Concrete Inputs": ["", "]"]}},
    {"ph": "X", "cat": "python_function", "name": "nn.Module: Linear_0", "pid": 1, "tid": 2, "ts": 1, "dur": 9},
    {"ph": "X", "cat": "python_function", "name": "f.py(3): g", "pid": 1, "tid": 2, "ts": 1, "dur": 9},
    {"ph": "s", "id": 5, "pid": 1, "tid": 2, "ts": 1, "cat": "ac2g", "name": "ac2g"},
    {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": 2, "ts": 1, "s": "t"},
    {"ph": "X", "cat": "gpu_user_annotation", "name": "ProfilerStep#6", "pid": 0, "tid": 7, "ts": 1, "dur": 1},
    {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "ts": 0, "args": {"name": "thread 2 (\u00e9)"}},
]  # fmt: skip
TOP = {
    "metadata": {"env": {"TOKEN": "s3cret \\\" ] } traceEvents"}, "list": [[1], {"a": "}"}]},
    "trace_id": "s3cret \\", "number": -1.5e3, "nothing": None,
    "deviceProperties": [{"id": 1, "name": "H200"}],
    "traceEvents": [KERNEL, *OTHERS],
    "distributedInfo": {"rank": 3}, "baseTimeNanoseconds": 1000, "last": "s3cret",
}  # fmt: skip
LAYOUTS = [
    json.dumps(TOP).encode(),
    json.dumps(TOP, separators=(",", ":")).encode(),
    json.dumps(TOP, indent=2).encode(),
    json.dumps(TOP, indent="\t", sort_keys=True, ensure_ascii=False).replace("\n", "\r\n").encode(),
    b"\xef\xbb\xbf \n" + json.dumps(TOP).encode() + b"\n \n",
]


@pytest.mark.parametrize("text", LAYOUTS)
def test_what_is_read_of_an_event_in_any_layout(text):
    found = scan(text)
    assert found["tables"] == {
        "kernel": {
            "start_ns": [10_250], "end_ns": [12_750], "name": [b'k<{"]\\>'], "correlation": [5], "device": [1],
            "stream": [7], "graph_node": [77], "bytes": [12], "grid_x": [7], "grid_y": [8], "grid_z": [9],
            "block_x": [64], "block_y": [2], "block_z": [1], "registers": [32], "shared_bytes": [1024],
        },
        "cpu_op": {"start_ns": [1_000], "end_ns": [10_000], "name": [b"aten::mm"], "thread": [0], "sequence": [41]},
        "python_function": {"start_ns": [1_000], "end_ns": [10_000], "name": [b"nn.Module: Linear_0"], "thread": [0]},
    }  # fmt: skip
    assert found["threads"] == [(1, 2)]
    assert found["namings"] == [(True, 1, 2, "thread 2 (é)".encode())]
    assert (found["events"], found["malformed"]) == (8, 0)


@pytest.mark.parametrize("text", LAYOUTS)
def test_of_the_rest_of_the_file_only_three_values_are_kept(text):
    found = scan(text)
    assert {key: json.loads(value) for key, value in found["facts"].items()} == {
        "deviceProperties": [{"id": 1, "name": "H200"}], "distributedInfo": {"rank": 3}, "baseTimeNanoseconds": 1000,
    }  # fmt: skip
    assert "s3cret" not in str(found)


@settings(max_examples=200)
@given(st.sampled_from(LAYOUTS), st.lists(st.integers(0, 3000)))
def test_any_split_of_the_bytes_gives_the_same(text, cuts):
    cuts = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts)]
    assert scan(*pieces) == scan(text)


@pytest.mark.parametrize("text", LAYOUTS)
def test_byte_by_byte(text):
    assert scan(*(text[i : i + 1] for i in range(len(text)))) == scan(text)


names = st.text(max_size=80) | st.text('"\\{}[],:\n', max_size=80)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | names, st.lists, max_leaves=8)
events = st.builds(
    lambda name, arguments, ts: {"ph": "X", "cat": "cpu_op", "args": arguments, "name": name, "ts": ts, "dur": 1},
    names,
    st.dictionaries(names, values),
    st.integers(0, 2**40),
)


@settings(max_examples=50)
@given(
    st.lists(events), st.dictionaries(names, values), st.sampled_from([None, 0, 1]), st.booleans(), st.integers(1, 99)
)
def test_any_json_is_read_as_python_reads_it(some, beside, indent, ascii_only, size):
    text = json.dumps({**beside, "traceEvents": some}, indent=indent, ensure_ascii=ascii_only)
    data = text.encode("utf-8", "surrogatepass")
    found = scan(*(data[i : i + size] for i in range(0, len(data), size)))
    columns = found["tables"].get("cpu_op", {"name": [], "start_ns": []})
    expected = [event["name"].encode("utf-8", "replace" if ascii_only else "surrogatepass") for event in some]
    read = [name.replace("\ufffd".encode(), b"?") if ascii_only else name for name in columns["name"]]
    assert read == [name.replace("\ufffd".encode(), b"?") if ascii_only else name for name in expected]
    assert columns["start_ns"] == [event["ts"] * 1000 for event in some]


def test_begins_and_ends_nest_by_thread():
    rows = [
        ("B", "user_annotation", "step", 1, 1), ("B", "net", "get", 1, 2), ("B", "user_annotation", "inner", 2, 3),
        ("E", "", "", 1, 4), ("E", "", "", 2, 5), ("E", "", "", 1, 9), ("E", "", "", 1, 10),
        ("B", "user_annotation", "open", 1, 11),
    ]  # fmt: skip
    keys = ("ph", "cat", "name", "tid", "ts")
    found = scan(file_of(*(json.dumps({"pid": 1, **dict(zip(keys, row, strict=True))}) for row in rows)))
    assert found["tables"]["user_annotation"] == {
        "name": [b"inner", b"step"], "thread": [1, 0], "start_ns": [3_000, 1_000], "end_ns": [5_000, 9_000],
    }  # fmt: skip
    assert found["unended"] == 2


# torch.profiler writes the source line of a frame as its name, quotes and line breaks and all (pytorch #113001).
UNESCAPED = """
  {
    "ph": "X", "cat": "python_function", "name": "%s", "pid": 1, "tid": 2,
    "ts": 1, "dur": 0,
    "args": {
      "Python id": 1
    }
  },"""


@pytest.mark.parametrize(
    ("frame", "malformed"),
    [
        ('lib = Library("_inductor_test", "IMPL")', 0),
        ('lib = Library("_inductor_test", "IMPL")\n(1): <module>', 1),
        ('{"device": "cpu", "dtype": "float32"}(12): run', 0),
        ('print("', 1),
        ('an inch: "', 1),
        ('a "{" b "{" c', 1),
        ('a "x}y" b', 1),
    ],
)
@pytest.mark.parametrize("size", [1, 17, 64, 1000])
def test_unescaped_quotes_cost_one_event(frame, malformed, size):
    text = (
        '{"traceEvents": [' + UNESCAPED % frame + "\n  " + annotation() + "," + UNESCAPED % "f" + "\n  " + annotation()
    )
    data = text.encode() + b'\n  ],\n  "traceName": "x"\n}'
    found = scan(*(data[i : i + size] for i in range(0, len(data), size)))
    assert len(found["tables"]["user_annotation"]["name"]) == 2
    assert found["malformed"] == malformed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"hello", "at byte 0 it has 'h' instead of a '{' or '['"),
        (b"\x00\x01", "at byte 0 it has the byte 0 instead of a '{' or '['"),
        (b'{"a" 1}', "at byte 5 it has '1' instead of a ':' behind a key"),
        (b"{a: 1}", "at byte 1 it has 'a' instead of a key in quotes"),
        (b'{"traceEvents": []} {}', "at byte 20 it has '{' instead of nothing behind the trace"),
        (b'{"traceEvents": [', "it ends at byte 17 in the middle of its events"),
        (b'{"traceEvents": [{"ph": "X"', "it ends at byte 27 in the middle of its events"),
        (b'{"traceEvents": [{"ph": "X"}', "it ends at byte 28 in the middle of its events"),
        (b'{"traceEvents": []', "it ends at byte 18 in the middle of its values"),
        (b'{"a": "b', "it ends at byte 8 in the middle of its values"),
        (b'{"distributedInfo": {"rank": ', "it ends at byte 29 in the middle of its values"),
        (b'[{"ph": "X"', "it ends at byte 11 in the middle of its events"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_no_whole_json_is_refused(text, message, size):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        scan(*(text[i : i + size] for i in range(0, len(text), size)))
    assert str(refused.value) == message


def test_a_bare_list_may_lack_its_bracket():
    whole, unclosed = scan(b"[" + annotation().encode() + b"]"), scan(b"[" + annotation().encode() + b",\n")
    assert whole["tables"] == unclosed["tables"]
    assert (whole["is_unclosed"], unclosed["is_unclosed"]) == (False, True)


def test_ids_that_are_no_numbers_are_kept_apart():
    found = scan(file_of(*(annotation().replace('"tid": 1', f'"tid": {tid}') for tid in ('"12"', '"main"', '"io"'))))
    lowest = np.iinfo(np.int64).min
    assert found["threads"] == [(1, 12), (1, lowest), (1, lowest + 1)]
    assert found["text_ids"] == [b"main", b"io"]
