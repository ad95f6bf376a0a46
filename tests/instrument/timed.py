"""Sites, steps, calls and backwards that are measured by a stand-in for the driver, and what came of them."""

from __future__ import annotations

import numpy as np

from tetrace import _C

STEP = _C.site("step", 0, 0)
MODEL, LAYER, HEAD = (_C.site(name, 0, 1) for name in ("model", "layer", "head"))
MODEL_BACK, LAYER_BACK, HEAD_BACK = (_C.site(name, 0, 2) for name in ("model", "layer", "head"))
LOSS_BACK, PART_BACK = _C.site("loss", 0, 2), _C.site("part", 0, 2)
PART = _C.site("part", 0, 1)
for forward, backward in ((MODEL, MODEL_BACK), (LAYER, LAYER_BACK), (HEAD, HEAD_BACK), (PART, PART_BACK)):
    _C.set_backward_site(forward, backward)


def begin(cuda, events=1000, native=True):
    """Measures MODEL and, inside it, LAYER and HEAD. PART is inside LAYER and not measured itself."""
    _C.ranges_open("", 8192)
    for forward, backward, around in ((MODEL, MODEL_BACK, -1), (LAYER, LAYER_BACK, MODEL), (HEAD, HEAD_BACK, MODEL)):
        _C.timing_measure(forward, around, True)
        _C.timing_measure(backward, around, True)
    _C.timing_measure(PART, LAYER, False)
    _C.timing_measure(PART_BACK, LAYER, False)
    _C.timing_measure(LOSS_BACK, -1, True)
    _C.timing_open(events, STEP, cuda.get_device, cuda.get_stream, cuda.source if native else 0, cuda.path)


def step(number, sampled=True):
    _C.set_step(number)
    return _C.timing_step(number, sampled)


def call(cuda, site, ns, *inside):
    """A range of `site` with `ns` of work, half before what is inside it and half after."""
    _C.push(site)
    cuda.work(ns // 2)
    for one in inside:
        call(cuda, *one)
    cuda.work(ns - ns // 2)
    _C.pop()


def back(cuda, *nodes):
    """A backward whose nodes are of these sites and take these times."""
    for site, ns in nodes:
        _C.push(site)
        cuda.work(ns)
        _C.pop()
    _C.timing_end_backward()


def rows():
    """{(step, site): (count, skipped, ns)} of what was measured since it was last asked."""
    found = np.frombuffer(_C.timing_rows(), "<i4, <i4, <i4, <i4, <i8").tolist()
    return {(step, site): tuple(numbers) for site, step, *numbers in found}


def counts(*names):
    found = _C.timing_counts()
    return tuple(found[name] for name in names)
