"""Intervals on streams (csrc/timing), with a stand-in for the driver whose clocks the test sets."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fake_cuda import needs_compiler
from test_transitions import functions as backward_functions

from tests.instrument.timed import (
    HEAD,
    HEAD_BACK,
    LAYER,
    LAYER_BACK,
    LOSS_BACK,
    MODEL,
    MODEL_BACK,
    PART,
    PART_BACK,
    STEP,
    back,
    begin,
    call,
    counts,
    rows,
    step,
)
from tetrace import _C

pytestmark = needs_compiler


@pytest.mark.parametrize("native", [True, False])
def test_ranges_of_modules_are_measured_with_what_is_inside_them(cuda, native):
    begin(cuda, native=native)
    step(1)
    cuda.work(700)
    call(cuda, MODEL, 1000, (LAYER, 300), (LAYER, 500), (HEAD, 50))
    step(2, False)
    assert rows() == {
        (1, STEP): (1, 0, 2550),
        (1, MODEL): (1, 0, 1850),
        (1, LAYER): (2, 0, 800),
        (1, HEAD): (1, 0, 50),
    }


def test_only_sampled_steps_are_measured(cuda):
    begin(cuda)
    for number in range(1, 6):
        step(number, number % 2 == 0)
        call(cuda, MODEL, 100 * number)
    step(6, False)
    assert {key: row[2] for key, row in rows().items() if key[1] == MODEL} == {(2, MODEL): 200, (4, MODEL): 400}
    assert cuda.count("records") == 8
    assert cuda.count("made") == 4  # of a step and a range two each, used again


def test_what_is_not_measured_costs_no_event(cuda):
    begin(cuda)
    other = _C.site("other", 0, 0)
    step(1)
    _C.push(other)
    call(cuda, PART, 10)
    _C.pop()
    step(2, False)
    assert cuda.count("records") == 2


def test_backward_goes_from_module_to_module(cuda):
    """One event for each change of module; those around are measured from their first node to their last."""
    begin(cuda)
    step(1)
    back(cuda, (LOSS_BACK, 7), (HEAD_BACK, 20), (HEAD_BACK, 30), (MODEL_BACK, 5), (PART_BACK, 300), (LAYER_BACK, 100))
    before = cuda.count("records")
    step(2, False)
    assert rows() == {
        (1, STEP): (1, 0, 462),
        (1, LOSS_BACK): (1, 0, 7),
        (1, HEAD_BACK): (1, 0, 50),
        (1, MODEL_BACK): (1, 0, 455),
        (1, LAYER_BACK): (1, 0, 400),
    }
    assert before == 1 + 5  # the step; loss, head, model, part or layer, the end


def test_a_recompute_inside_backward(cuda):
    begin(cuda)
    step(1)
    _C.push(LAYER_BACK)
    call(cuda, LAYER, 60)
    cuda.work(5)
    _C.pop()
    _C.timing_end_backward()
    step(2, False)
    found = rows()
    assert (found[1, LAYER], found[1, LAYER_BACK]) == ((1, 0, 60), (1, 0, 65))


def test_a_backward_that_raises_is_measured_until_there(cuda):
    begin(cuda)
    step(1)
    _C.push(LAYER_BACK)
    cuda.work(40)
    _C.unwind(0)
    _C.timing_end_backward()
    cuda.work(1000)
    step(2, False)
    assert rows()[1, LAYER_BACK] == (1, 0, 40)


def test_nothing_waits_for_the_device(cuda):
    """Rows of a step are made once its stream has come to its end, whenever that is."""
    begin(cuda)
    cuda.hold(1)
    for number in (1, 2, 3):
        step(number)
        call(cuda, MODEL, number)
    assert (step(4, False), rows()) == (0, {})
    assert counts("pending") == (6,)
    cuda.hold(1, False)
    assert step(5, False) == 6
    assert {key: row[2] for key, row in rows().items() if key[1] == MODEL} == {
        (1, MODEL): 1, (2, MODEL): 2, (3, MODEL): 3,
    }  # fmt: skip


def test_the_end_waits_a_while_and_no_longer(cuda):
    begin(cuda)
    step(1)
    call(cuda, MODEL, 5)
    cuda.hold(1)
    call(cuda, LAYER, 6)
    _C.timing_close(0.02)
    assert rows() == {(1, MODEL): (1, 0, 5), (1, LAYER): (0, 1, 0)}
    assert counts("measured", "unfinished") == (1, 1)

    begin(cuda)
    cuda.hold(1, True)
    step(1)
    call(cuda, MODEL, 5)
    threading.Timer(0.05, lambda: cuda.hold(1, False)).start()
    _C.timing_close(10)
    assert rows() == {(1, MODEL): (1, 0, 5)}


def test_a_capture_is_left_alone(cuda):
    begin(cuda)
    step(1)
    call(cuda, MODEL, 10)
    cuda.capture(1)
    call(cuda, MODEL, 1000, (LAYER, 10))
    back(cuda, (LAYER_BACK, 10))
    cuda.capture(1, -1)  # the default stream, while a stream that it waits for is captured
    call(cuda, LAYER, 1000)
    cuda.capture(1, 0)
    call(cuda, MODEL, 20)
    step(2, False)
    assert rows() == {(1, STEP): (1, 0, 2050), (1, MODEL): (2, 0, 30)}
    assert counts("captured") == (5,)


def test_events_are_made_and_read_while_another_stream_is_captured(cuda):
    """Such calls end a capture, unless the thread has said that it knows what it does."""
    begin(cuda)
    cuda.capture(9)
    step(1)
    call(cuda, MODEL, 10)
    step(2, False)
    assert rows()[1, MODEL] == (1, 0, 10)


def test_a_capture_that_begins_inside_a_module(cuda):
    begin(cuda)
    step(1)
    _C.push(MODEL)
    _C.push(LAYER_BACK)
    cuda.capture(1)
    _C.pop()
    _C.pop()
    _C.timing_end_backward()
    cuda.capture(1, 0)
    step(2, False)
    assert set(rows()) == {(1, STEP)}
    assert counts("captured") == (3,)  # the model, and of the backward the layer and the model


def test_a_range_that_ends_on_another_stream_is_not_counted_but_told(cuda):
    begin(cuda)
    step(1)
    _C.push(MODEL)
    call(cuda, LAYER, 10)
    cuda.use(2)
    call(cuda, LAYER, 30)
    _C.pop()
    cuda.use(1)
    step(2, False)
    assert rows() == {(1, STEP): (1, 0, 10), (1, MODEL): (0, 1, 0), (1, LAYER): (2, 0, 40)}
    assert counts("crossed") == (1,)


def test_a_backward_that_changes_its_stream(cuda):
    """A module whose nodes are on one stream is measured; one with nodes on both is not."""
    begin(cuda)
    step(1)
    _C.push(HEAD_BACK)
    cuda.work(10)
    _C.pop()
    cuda.use(2)
    _C.push(LAYER_BACK)
    cuda.work(25)
    _C.pop()
    cuda.use(1)
    _C.timing_end_backward()
    step(2, False)
    assert rows() == {
        (1, STEP): (1, 0, 10),
        (1, HEAD_BACK): (1, 0, 10),
        (1, LAYER_BACK): (1, 0, 25),
        (1, MODEL_BACK): (1, 1, 25),
    }


def test_streams_are_read_apart(cuda):
    """One that hangs does not keep what ran on another."""
    begin(cuda)
    step(1, False)
    step(2)
    cuda.hold(2)
    cuda.use(2)
    call(cuda, LAYER, 30)
    cuda.use(1)
    call(cuda, HEAD, 4)
    step(3, False)
    assert counts("measured", "pending") == (2, 1)
    cuda.hold(2, False)
    step(4, False)
    assert {key: row[2] for key, row in rows().items()} == {(2, STEP): 4, (2, LAYER): 30, (2, HEAD): 4}


def test_devices_have_events_of_their_own(cuda):
    """Also where the thread has the other device's context, or none."""
    begin(cuda)
    step(1)
    call(cuda, HEAD, 5)
    cuda.use(0, device=1)
    call(cuda, LAYER, 10)
    cuda.use(257)
    call(cuda, MODEL, 20)
    cuda.enter(-1)
    cuda.use(0, device=0)
    call(cuda, HEAD, 7)
    cuda.enter(0)
    cuda.use(1)
    step(2, False)
    assert {key: row[2] for key, row in rows().items()} == {(1, STEP): 5, (1, HEAD): 12, (1, LAYER): 10, (1, MODEL): 20}
    assert cuda.count("retained") == 2


@pytest.mark.parametrize("native", [True, False])
def test_a_module_of_another_device_than_the_current_one(cuda, native):
    """It is timed where it runs, with what is inside it and has no device of its own; what is around it is not."""
    begin(cuda, native=native)
    _C.timing_measure(LAYER, MODEL, True, 1)
    _C.timing_measure(PART, LAYER, True)
    step(1)
    _C.push(MODEL)
    cuda.work(5)
    _C.push(LAYER)
    _C.push(PART)
    cuda.use(0, device=1)
    cuda.work(30)
    cuda.use(1)
    _C.pop()
    _C.pop()
    call(cuda, HEAD, 2)
    _C.pop()
    step(2, False)
    assert {key[1]: row for key, row in rows().items()} == {
        STEP: (1, 0, 7), MODEL: (1, 0, 7), LAYER: (1, 0, 30), PART: (1, 0, 30), HEAD: (1, 0, 2),
    }  # fmt: skip


def test_a_device_that_is_not_in_use_is_not_put_to_use(cuda):
    cuda.activate(3, False)
    begin(cuda)
    step(1)
    cuda.use(3 * 256 + 1)
    call(cuda, MODEL, 5)
    cuda.use(1)
    step(2, False)
    assert set(rows()) == {(1, STEP)}
    assert cuda.count("retained") == 1


def test_without_room_calls_are_skipped_and_counted(cuda):
    begin(cuda, events=4)
    for number in (1, 2):
        cuda.hold(1)
        step(number)
        for _ in range(3):
            call(cuda, LAYER, 10)
        cuda.hold(1, False)
        step(number + 10, False)
    assert rows() == {
        (1, STEP): (1, 0, 30), (1, LAYER): (1, 2, 10), (2, STEP): (1, 0, 30), (2, LAYER): (1, 2, 10),
    }  # fmt: skip
    assert cuda.count("most_alive") == 4
    assert counts("no_room", "measured") == (4, 4)
    partial = dict(zip(*(_C.timing_summary()[name].tolist() for name in ("site", "partial_steps")), strict=True))
    assert partial == {STEP: 0, LAYER: 2}


def test_a_step_of_more_calls_than_the_pool_holds(cuda):
    """Events that the device is through with are used again within the step, on every stream of the device."""
    begin(cuda, events=100)
    step(1)
    for _ in range(500):
        call(cuda, MODEL, 10, (LAYER, 5))
    cuda.use(2)
    for _ in range(200):
        back(cuda, (HEAD_BACK, 2), (LAYER_BACK, 3))
    cuda.use(1)
    step(2, False)
    assert counts("no_room") == (0,)
    assert cuda.count("most_alive") == 100
    assert {key[1]: row for key, row in rows().items() if key[1] != STEP} == {
        MODEL: (500, 0, 7500), LAYER: (500, 0, 2500),
        MODEL_BACK: (200, 0, 1000), LAYER_BACK: (200, 0, 600), HEAD_BACK: (200, 0, 400),
    }  # fmt: skip


def test_a_full_pool_asks_once_for_each_call_while_the_device_comes_to_nothing(cuda):
    begin(cuda, events=20)
    cuda.hold(1)
    step(1)
    for _ in range(100):
        call(cuda, LAYER, 10)
    refused = counts("no_room")[0]
    assert (refused, cuda.count("queries")) == (91, 91)
    cuda.hold(1, False)
    call(cuda, HEAD, 5)
    step(2, False)
    assert rows()[1, HEAD] == (1, 0, 5)


@pytest.mark.parametrize("call_name", ["cuEventCreate", "cuEventRecord", "cuStreamIsCapturing", "cuEventElapsedTime"])
def test_a_driver_that_refuses_costs_the_times_only(cuda, call_name):
    begin(cuda)
    step(1)
    cuda.fail(call_name, 700)
    call(cuda, MODEL, 10)
    back(cuda, (LAYER_BACK, 10))
    step(2, False)
    cuda.fail(call_name, 0, 0)
    assert all(row[0] == 0 for row in rows().values())
    assert counts("measured") == (0,)
    assert counts("failed")[0] > 0
    step(3)
    call(cuda, MODEL, 10)
    step(4, False)
    assert rows()[3, MODEL] == (1, 0, 10)


def test_a_lost_device_leaves_what_was_pending(cuda):
    begin(cuda)
    step(1)
    call(cuda, MODEL, 10)
    cuda.fail("cuEventQuery", 700)
    step(2, False)
    cuda.fail("cuEventQuery", 0, 0)
    assert rows() == {(1, STEP): (0, 1, 0), (1, MODEL): (0, 1, 0)}


def test_a_node_of_no_known_module_ends_the_one_before(cuda):
    begin(cuda)
    step(1)
    functions = backward_functions()
    _C.push(LAYER_BACK)
    cuda.work(30)
    _C.pop()
    assert functions.enter_backward(12345, 7) == 0  # a thread that has noted nothing
    cuda.work(1000)
    _C.push(HEAD_BACK)
    cuda.work(5)
    _C.pop()
    _C.timing_end_backward()
    step(2, False)
    found = rows()
    assert (found[1, LAYER_BACK], found[1, HEAD_BACK]) == ((1, 0, 30), (1, 0, 5))


def test_a_second_session_starts_anew(cuda):
    begin(cuda)
    step(1)
    _C.push(MODEL)
    _C.timing_close(0)
    _C.pop()
    begin(cuda)
    step(1)
    call(cuda, LAYER, 10)
    step(2, False)
    assert rows() == {(1, STEP): (1, 0, 10), (1, LAYER): (1, 0, 10)}
    assert counts("measured", "unfinished") == (2, 0)


def test_ranges_that_were_open_before_and_are_never_closed(cuda):
    begin(cuda)
    _C.push(MODEL)
    step(1)
    _C.push(LAYER)
    cuda.work(10)
    step(2)
    cuda.work(5)
    _C.unwind(0)
    step(3, False)
    # The layer's interval belongs to the step in which it began.
    assert rows() == {(1, STEP): (1, 0, 10), (1, LAYER): (1, 0, 15), (2, STEP): (1, 0, 5)}


def test_the_summary(cuda):
    begin(cuda)
    lengths = np.random.default_rng(0).lognormal(12, 1, 500).astype(np.int64)
    for number, ns in enumerate(lengths.tolist(), 1):
        step(number)
        call(cuda, MODEL, ns - ns // 3, (LAYER, ns // 3))
    step(1000, False)
    found = _C.timing_summary()
    row = {name: found[name][found["site"].tolist().index(MODEL)] for name in found}
    assert (row["steps"], row["partial_steps"], row["count"]) == (500, 0, 500)
    measured = np.array([ns for (_, site), (_, _, ns) in rows().items() if site == MODEL])
    assert abs(measured - lengths).max() <= 1 + lengths.max() * 1e-6  # the driver gives milliseconds as a float
    assert (row["sum_ns"], row["min_ns"], row["max_ns"]) == (measured.sum(), measured.min(), measured.max())
    for name, share in (("median_ns", 0.5), ("p95_ns", 0.95)):
        exact = np.quantile(measured, share, method="inverted_cdf")
        assert abs(row[name] - exact) <= 0.017 * exact


def test_steps_whose_ranges_are_never_closed_do_not_pile_up(cuda):
    begin(cuda)
    for number in range(1, 101):
        step(number)
        _C.push(MODEL)
        call(cuda, LAYER, 1)
    step(200, False)
    made = [number for number, site in rows() if site == LAYER]
    assert made == list(range(1, 37))
    _C.timing_close(0)
    assert {key[0] for key in rows()} == set(range(37, 101))


def test_a_library_that_is_no_driver(tmp_path):
    with pytest.raises(ValueError, match=r"libnone\.so: cannot be loaded"):
        _C.timing_open(10, STEP, int, int, 0, str(tmp_path / "libnone.so"))
    with pytest.raises(ValueError, match="has no cuDeviceGet"):
        _C.timing_open(10, STEP, int, int, 0, "libm.so.6")


def test_while_it_is_closed_nothing_is_done(cuda):
    rows()
    _C.ranges_open("", 8192)
    assert _C.timing_step(1, True) == 0
    _C.push(MODEL)
    _C.pop()
    _C.timing_end_backward()
    assert cuda.count("records") == 0
