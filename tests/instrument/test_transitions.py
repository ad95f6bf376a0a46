"""Which module a node of autograd's graph belongs to, as the observer built against torch asks it."""

from __future__ import annotations

import ctypes
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tetrace import _C

Number = ctypes.CFUNCTYPE(ctypes.c_uint64)


class Functions(ctypes.Structure):
    """The struct of the capsule."""

    _fields_ = (
        ("set_sequence", ctypes.CFUNCTYPE(None, Number, Number)),
        ("enter_backward", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint64, ctypes.c_int64)),
        ("leave_backward", ctypes.CFUNCTYPE(None)),
    )


def functions():
    """What `_C` gives to the observer."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return Functions.from_address(get(_C.autograd_capsule(), b"tetrace._C.autograd"))


def module(name):
    """Sites of a module's forward and backward."""
    forward, backward = _C.site(name, 1, 1), _C.site(name, 1, 2)
    _C.set_backward_site(forward, backward)
    return forward, backward


(OUTER, OUTER_BACK), (INNER, INNER_BACK) = module("layers.0"), module("layers.0.linear")
LOSS = _C.site("(loss)", 15, 2)


class Autograd:
    """Numbers nodes as autograd does: each thread its own."""

    def __init__(self):
        self.threads = threading.local()
        self.count = 0
        self._kept = Number(self.peek), Number(self.thread)  # the extension holds their addresses only
        self.enter, self.leave = functions().enter_backward, functions().leave_backward
        functions().set_sequence(*self._kept)

    def thread(self):
        if not hasattr(self.threads, "number"):
            self.count += 1
            self.threads.number, self.threads.next = self.count, 0
        return self.threads.number

    def peek(self):
        self.thread()
        return self.threads.next

    def node(self):
        """Makes one; its forward thread and number."""
        found = self.thread(), self.threads.next
        self.threads.next += 1
        return found


@pytest.fixture
def autograd(tmp_path):
    _C.ranges_open(str(tmp_path), 1 << 20)
    _C.set_loss_site(LOSS)
    yield Autograd()
    functions().set_sequence(Number(), Number())
    _C.set_loss_site(-1)
    _C.ranges_close()


def site_of(autograd, node):
    """The site whose range is open while `node` runs backward on this thread; None if none was opened for it."""
    before = _C.depth()
    if not autograd.enter(*node):
        assert _C.depth() == before
        return None
    found = _C.current_module()
    autograd.leave()
    assert _C.depth() == before
    return found


def test_a_node_belongs_to_the_innermost_module_that_made_it(autograd):
    other = _C.site("not a module", 0, 0)
    nodes = [autograd.node()]
    for site in (OUTER, INNER, other):
        _C.push(site)
        nodes += [autograd.node(), autograd.node()]
    for _ in range(3):
        _C.pop()
        nodes += [autograd.node()]
    wanted = [LOSS, *[OUTER_BACK] * 2, *[INNER_BACK] * 4, INNER_BACK, OUTER_BACK, LOSS]
    assert [site_of(autograd, node) for node in reversed(nodes)] == list(reversed(wanted))


def test_a_module_that_makes_no_node_has_none(autograd):
    for site in (OUTER, INNER):
        _C.push(site)
    _C.unwind(1)
    node = autograd.node()
    _C.unwind(0)
    assert site_of(autograd, node) == OUTER_BACK


def test_a_thread_without_modules_has_no_loss(autograd):
    assert site_of(autograd, autograd.node()) is None


def test_nodes_that_nobody_noted_are_unknown_and_not_the_loss(autograd):
    missed = autograd.node()
    _C.forget_transitions()
    _C.push(INNER)
    noted = autograd.node()
    _C.pop()
    loss = autograd.node()
    assert [site_of(autograd, node) for node in (loss, noted, missed)] == [LOSS, INNER_BACK, None]


def test_a_module_without_backward_site_has_no_range(autograd):
    _C.push(_C.site("compiled", 13, 1))
    node = autograd.node()
    _C.pop()
    assert site_of(autograd, node) is None


def test_accumulating_repeats_what_ran_before_it_on_the_thread(autograd):
    accumulate = (0, -1)
    _C.push(INNER)
    node = autograd.node()
    _C.pop()
    assert site_of(autograd, accumulate) is None
    assert [site_of(autograd, one) for one in (node, accumulate, accumulate)] == [INNER_BACK] * 3
    seen = []
    worker = threading.Thread(target=lambda: seen.append(site_of(autograd, accumulate)))
    worker.start()
    worker.join()
    assert seen == [None]


def test_of_threads_that_have_ended_the_newest_are_known(autograd):
    """A program may start new ones all the time. One that lives is never forgotten."""
    _C.push(INNER)
    first = autograd.node()
    _C.pop()
    nodes = []

    def forward():
        _C.push(OUTER)
        nodes.append(autograd.node())
        _C.pop()

    for _ in range(2000):
        worker = threading.Thread(target=forward)
        worker.start()
        worker.join()
    found = [site_of(autograd, node) for node in nodes]
    known = found.count(OUTER_BACK)
    assert 256 <= known <= 768
    assert found == [None] * (len(nodes) - known) + [OUTER_BACK] * known
    assert site_of(autograd, first) == INNER_BACK


def test_leaving_closes_what_was_left_open_in_the_node(autograd):
    _C.push(INNER)
    node = autograd.node()
    _C.pop()
    autograd.leave()  # nothing to leave
    assert autograd.enter(*node) == 1
    _C.push(OUTER)
    _C.push(OUTER)
    autograd.leave()
    assert _C.depth() == 0


def test_nodes_nest(autograd):
    """A checkpointed module runs forward and backward again inside a node."""
    _C.push(OUTER)
    first = autograd.node()
    _C.pop()
    assert autograd.enter(*first) == 1
    _C.push(INNER)
    second = autograd.node()
    _C.pop()
    assert autograd.enter(*second) == 1
    assert (_C.depth(), _C.current_module()) == (2, INNER_BACK)
    autograd.leave()
    assert (_C.depth(), _C.current_module()) == (1, OUTER_BACK)
    autograd.leave()
    assert _C.depth() == 0


def test_a_new_recording_starts_without_nodes(autograd, tmp_path):
    _C.push(INNER)
    node = autograd.node()
    _C.pop()
    _C.ranges_close()
    assert site_of(autograd, node) is None
    _C.ranges_open(str(tmp_path), 1 << 20)
    assert site_of(autograd, node) is None
    _C.push(OUTER)
    again = autograd.node()
    _C.pop()
    assert site_of(autograd, again) == OUTER_BACK


def test_numbers_that_start_anew(autograd):
    _C.push(INNER)
    for _ in range(100):
        autograd.node()
    _C.pop()
    autograd.threads.next = 0
    _C.push(OUTER)
    node = autograd.node()
    _C.pop()
    assert site_of(autograd, node) == OUTER_BACK


def test_rows_carry_the_number_of_the_node(autograd, tmp_path):
    _C.push(INNER)
    autograd.node()
    node = autograd.node()
    _C.pop()
    site_of(autograd, node)
    _C.ranges_close()
    [path] = tmp_path.iterdir()
    ring = _C.read_ring(str(path))
    assert (ring["site"].tolist(), ring["value"].tolist()) == ([INNER, INNER_BACK], [-1, 1])


def test_backward_runs_while_other_threads_run_forward(autograd):
    """The calls from ctypes hold no GIL, as autograd's threads hold none."""
    made, failed, done = [], [], threading.Event()

    def forward():
        for _ in range(1500):
            _C.push(OUTER)
            made.append((autograd.node(), OUTER_BACK))
            _C.push(INNER)
            made.append((autograd.node(), INNER_BACK))
            _C.unwind(0)

    def backward():
        while not done.is_set():
            for node, wanted in made[-50:]:
                if site_of(autograd, node) != wanted:
                    failed.append(node)

    workers = [threading.Thread(target=forward) for _ in range(3)]
    readers = [threading.Thread(target=backward) for _ in range(2)]
    for thread in workers + readers:
        thread.start()
    for worker in workers:
        worker.join()
    done.set()
    for reader in readers:
        reader.join()
    assert len(made) == 9000
    assert failed == []


def test_memory_is_bounded(autograd):
    """The oldest are forgotten, and are then of no module at all."""
    _C.push(OUTER)
    first = autograd.node()
    _C.pop()
    for _ in range((1 << 20) // 2):
        _C.push(INNER)
        node = autograd.node()
        _C.pop()
        autograd.node()
    assert site_of(autograd, first) is None
    assert site_of(autograd, node) == INNER_BACK


MODULES = [module(f"random.{number}") for number in range(4)]
BACK = dict(MODULES)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(st.sampled_from([*BACK, None, "node", "node"]), max_size=60))
def test_random_modules(autograd, actions):
    stack, made = [], []
    _C.push(OUTER)
    _C.pop()
    for action in actions:
        if action == "node":
            made.append((autograd.node(), BACK[stack[-1]] if stack else LOSS))
        elif action is None:
            _C.pop()
            stack = stack[:-1]
        else:
            _C.push(action)
            stack.append(action)
    _C.unwind(0)
    assert [site_of(autograd, node) for node, _ in made] == [site for _, site in made]
