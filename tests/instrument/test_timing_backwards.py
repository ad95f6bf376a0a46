"""Backwards that several threads run, or several at once, with a stand-in for the driver.

Autograd runs nodes of the processor on the thread that called it, and those of a device on a thread of the device.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_cuda import needs_compiler
from test_transitions import Autograd, Number, functions

from tests.instrument.timed import (
    HEAD,
    HEAD_BACK,
    LAYER,
    LAYER_BACK,
    LOSS_BACK,
    MODEL,
    MODEL_BACK,
    STEP,
    begin,
    counts,
    rows,
    step,
)
from tetrace import _C

pytestmark = needs_compiler


class Thread:
    """One that does what it is told, on a stream."""

    def __init__(self, cuda, autograd, stream):
        self.cuda, self.autograd = cuda, autograd
        self._pool = ThreadPoolExecutor(1, initializer=lambda: (cuda.enter(stream // 256), cuda.use(stream)))

    def do(self, function, *args):
        return self._pool.submit(function, *args).result(10)

    def node(self, *modules):
        """One that the modules' forward makes."""
        for site in modules:
            self.do(_C.push, site)
        made = self.do(self.autograd.node)
        self.do(_C.unwind, 0)
        return made

    def enter(self, node, ns):
        self.do(self.autograd.enter, *node)
        self.do(self.cuda.work, ns)

    def run(self, node, ns):
        self.enter(node, ns)
        self.do(self.autograd.leave)

    def close(self):
        self._pool.shutdown()


@pytest.fixture
def thread(cuda):
    autograd, made = Autograd(), []
    _C.set_loss_site(LOSS_BACK)

    def make(stream=1):
        made.append(Thread(cuda, autograd, stream))
        return made[-1]

    yield make
    for one in made:
        one.close()
    functions().set_sequence(Number(), Number())
    _C.set_loss_site(-1)


def backward_rows():
    return {site: row for (_, site), row in rows().items() if site not in (STEP, MODEL, LAYER, HEAD)}


def test_the_loss_is_on_the_processor(cuda, thread):
    """Its node runs on the thread that calls backward, and ends where the device's thread begins."""
    begin(cuda)
    script, device = thread(), thread()
    layer, head, loss = script.node(MODEL, LAYER), script.node(MODEL, HEAD), script.node()
    step(1)
    script.do(_C.timing_begin_backward)
    script.run(loss, 7)
    device.run(head, 400)
    device.run(layer, 600)
    script.do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {
        LOSS_BACK: (1, 0, 7), HEAD_BACK: (1, 0, 400), LAYER_BACK: (1, 0, 600), MODEL_BACK: (1, 0, 1000),
    }  # fmt: skip


def test_a_layer_on_the_processor(cuda, thread):
    """The modules around it are measured once, from the device's thread on to the one that calls backward, and back."""
    begin(cuda)
    script, device = thread(), thread()
    first, layer, head = script.node(MODEL, HEAD), script.node(MODEL, LAYER), script.node(MODEL, HEAD)
    step(1)
    script.do(_C.timing_begin_backward)
    device.run(head, 100)
    script.run(layer, 30)
    device.run(first, 70)
    script.do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {HEAD_BACK: (2, 0, 170), LAYER_BACK: (1, 0, 30), MODEL_BACK: (1, 0, 200)}


def test_a_node_of_no_known_module_takes_over_too(cuda, thread):
    begin(cuda)
    script, device = thread(), thread()
    layer = script.node(MODEL, LAYER)
    step(1)
    script.do(_C.timing_begin_backward)
    device.run(layer, 100)
    _C.set_loss_site(-1)
    script.do(script.autograd.enter, *script.node())
    script.do(cuda.work, 1000)
    script.do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {LAYER_BACK: (1, 0, 100), MODEL_BACK: (1, 0, 100)}


def test_a_backward_goes_on_on_another_device(cuda, thread):
    """Modules of one device are measured there; those with nodes on both are not, and that is told."""
    begin(cuda)
    script, one, two = thread(), thread(), thread(257)
    layer, head = script.node(MODEL, LAYER), script.node(MODEL, HEAD)
    step(1)
    script.do(_C.timing_begin_backward)
    two.run(head, 400)
    one.run(layer, 600)
    two.do(cuda.work, 5000)  # of something else
    script.do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {HEAD_BACK: (1, 0, 400), LAYER_BACK: (1, 0, 600), MODEL_BACK: (1, 1, 600)}
    assert counts("crossed") == (1,)


def test_nodes_of_two_devices_at_once(cuda, thread):
    """Each device has its own; what both work for is measured on both."""
    begin(cuda)
    script, one, two = thread(), thread(), thread(257)
    layer, head = script.node(MODEL, LAYER), script.node(MODEL, HEAD)
    step(1)
    script.do(_C.timing_begin_backward)
    two.enter(head, 100)
    one.run(layer, 600)
    two.do(cuda.work, 300)
    two.do(two.autograd.leave)
    script.do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {HEAD_BACK: (1, 0, 400), LAYER_BACK: (1, 0, 600), MODEL_BACK: (2, 0, 1000)}


def test_two_backwards_at_once_on_devices_of_their_own(cuda, thread):
    """The end of one leaves the other alone, between two of its nodes too."""
    begin(cuda)
    scripts, devices = (thread(), thread()), (thread(), thread(257))
    layers = [script.node(LAYER) for script in scripts for _ in range(2)]
    step(1)
    for script in scripts:
        script.do(_C.timing_begin_backward)
    devices[0].run(layers[0], 10)
    devices[1].run(layers[2], 5)
    devices[0].do(cuda.work, 3)  # what sums gradients has no range
    scripts[1].do(_C.timing_end_backward)
    devices[1].do(cuda.work, 5000)
    devices[0].run(layers[1], 1000)
    scripts[0].do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {LAYER_BACK: (2, 0, 1018), MODEL_BACK: (2, 0, 1018)}
    assert counts("unclear") == (0,)


def test_a_backward_of_nodes_that_a_third_thread_made(cuda, thread):
    """Whose it is, is not known while two run: it is not measured, and that is told."""
    begin(cuda)
    scripts, maker, device = (thread(), thread()), thread(), thread()
    layer = maker.node(LAYER)
    step(1)
    for script in scripts:
        script.do(_C.timing_begin_backward)
    device.run(layer, 10)
    scripts[1].do(_C.timing_end_backward)
    device.do(cuda.work, 100)
    scripts[0].do(_C.timing_end_backward)
    step(2, False)
    assert backward_rows() == {LAYER_BACK: (0, 1, 0), MODEL_BACK: (0, 1, 0)}
    assert counts("unclear") == (2,)


def test_alone_such_a_backward_is_measured(cuda, thread):
    begin(cuda)
    script, maker, device = thread(), thread(), thread()
    layer = maker.node(LAYER)
    step(1)
    script.do(_C.timing_begin_backward)
    device.run(layer, 10)
    script.do(_C.timing_end_backward)
    device.do(cuda.work, 100)
    step(2, False)
    assert backward_rows() == {LAYER_BACK: (1, 0, 10), MODEL_BACK: (1, 0, 10)}


def test_backwards_of_many_threads_come_to_their_ends(cuda, thread):
    """Four at once on two devices' threads, whose nodes are partly the callers' own; no event is lost (the fixture)."""
    begin(cuda, events=500)
    devices = thread(), thread(257)
    scripts = [thread() for _ in range(4)]
    nodes = [[script.node(MODEL, site) for site in (LAYER, HEAD)] for script in scripts]
    step(1)

    def backward(number):
        script = scripts[number]
        for turn in range(60):
            script.do(_C.timing_begin_backward)
            for node in nodes[number]:
                (script if turn % 3 == 0 else devices[number % 2]).run(node, 1)
            script.do(_C.timing_end_backward)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(backward, range(4)))
    step(2, False)
    assert counts("pending", "no_room", "failed") == (0, 0, 0)
