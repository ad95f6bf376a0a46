"""Names of ranges: what emit_nvtx adds is cut off, everything else is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetrace import _C


def encode(texts, dtype=np.int64):
    """Words and sequence numbers of `texts`, by way of the codes."""
    data = b"".join(texts)
    offsets = np.cumsum([0, *map(len, texts)], dtype=dtype)
    codes, sequence, words = _C.encode_names(offsets, np.frombuffer(data, np.uint8))
    assert (codes.dtype, sequence.dtype) == (np.int32, np.int64)
    assert len(set(words)) == len(words)
    return [words[code] for code in codes], sequence.tolist()


@pytest.mark.parametrize(
    ("text", "name", "sequence"),
    [
        (b"aten::view, seq = 12, op_id = 314290", b"aten::view", 12),
        (b"aten::view, seq = 12", b"aten::view", 12),
        (b"aten::empty, op_id = 7", b"aten::empty", -1),
        (b"AddmmBackward0, seq = 3, sizes = [[2, 3], []], input_op_ids = [(1,0), (2,1)]", b"AddmmBackward0", 3),
        (b"aten::cat, seq = 0, op_id = 1, sizes = [[[2], [3, 4]], []]", b"aten::cat", 0),
        (b"aten::mm, sizes = []", b"aten::mm", -1),
        (b"aten::mm, input_op_ids = [(18446744073709551615,0)]", b"aten::mm", -1),
        (b"aten::detach, seq = -1, op_id = 5", b"aten::detach", -1),
        (b"aten::detach, seq = -2", b"aten::detach", -1),
        (b"aten::add, seq = 9223372036854775807", b"aten::add", 2**63 - 1),
        (b"a, b, seq = 4", b"a, b", 4),
        (b", seq = 4", b"", 4),
        (b"", b"", -1),
    ],
)
def test_fields_of_emit_nvtx_are_cut(text, name, sequence):
    assert encode([text]) == ([name], [sequence])


@pytest.mark.parametrize(
    "text",
    [
        b"loss, seq = high",
        b"loss, seq = 12 of 40",
        b"loss, seq = ",
        b"loss, seq = +1",
        b"loss, seq = 1, seq = 2 and on",
        b"loss, seq = 9223372036854775808",
        b"loss, op_id = 5, seq = 6 ",
        b"layer, sizes = big",
        b"layer, sizes = [[2, 3]",
        b"layer, sizes = ",
        b"layer, sizes = [2]] ",
        b"layer, sizes = 2, 3",
        b"layer, sizes = [a]",
        b"layer,seq = 1",
        b"nvte_cublas_gemm, v2",
        b"caf\xe9 \xff\x00, x",
    ],
)
def test_other_texts_stay_whole(text):
    assert encode([text]) == ([text], [-1])


def test_the_fields_at_the_end_are_cut_when_earlier_text_looks_alike():
    assert encode([b"loss, seq = high, seq = 3"]) == ([b"loss, seq = high"], [3])
    assert encode([b"f, op_id = 1, seq = 2"]) == ([b"f, op_id = 1"], [2])


def test_words_are_in_order_of_first_use_and_used_again():
    texts = [b"b, seq = 1", b"a", b"b, seq = 2", b"a", b""]
    offsets = np.cumsum([0, *map(len, texts)])
    codes, sequence, words = _C.encode_names(offsets, np.frombuffer(b"".join(texts), np.uint8))
    assert codes.tolist() == [0, 1, 0, 1, 2]
    assert sequence.tolist() == [1, -1, 2, -1, -1]
    assert words == [b"b", b"a", b""]


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"aten::mm", b"aten::mm\0", b"x" * 8, b"x" * 16])))
def test_any_bytes_come_back(texts):
    texts = [text.replace(b",", b";") for text in texts]
    assert encode(texts) == (texts, [-1] * len(texts))
    assert encode(texts, np.int32) == (texts, [-1] * len(texts))


def test_many_words_grow_the_dictionary():
    texts = [b"kernel_%d, seq = %d" % (i % 5_000, i) for i in range(20_000)]
    names, sequence = encode(texts)
    assert names == [b"kernel_%d" % (i % 5_000) for i in range(20_000)]
    assert sequence == list(range(20_000))


def test_a_name_that_nearly_ends_as_fields_do_takes_linear_time():
    text = b", sizes = [[[[" * 200_000
    assert encode([text]) == ([text], [-1])


def test_a_slice_of_arrow_offsets():
    codes, _, words = _C.encode_names(np.array([2, 4, 6], np.int32), np.frombuffer(b"xxaabbyy", np.uint8))
    assert (codes.tolist(), words) == ([0, 1], [b"aa", b"bb"])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "offsets are empty"),
        ([-1, 2], "offset 0 is -1"),
        ([0, 3, 2], "offset 2 is 2, below the one before it, 3"),
        ([0, 5], "the last offset is 5, beyond the 4 bytes"),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_refused_offsets(offsets, message, dtype):
    with pytest.raises(ValueError, match=message):
        _C.encode_names(np.array(offsets, dtype), np.zeros(4, np.uint8))
