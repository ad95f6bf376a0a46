"""Sites and annotations: what ranges stand for."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
import threading

import pytest

from tetrace import _C
from tetrace.instrument import ranges


@pytest.fixture
def folder(tmp_path):
    """Where ranges are recorded to; off again at the end."""
    ranges.open(tmp_path)
    yield tmp_path
    ranges.close()
    ranges.set_step(-1)


def names(folder):
    """Names of the ranges recorded so far, in pairs with their depth."""
    listed = [json.loads(line) for line in (folder / "sites.jsonl").read_text().splitlines()]
    name = {line["site"]: line["name"] for line in listed}
    assert len(name) == len(listed)
    found = [_C.read_ring(str(path)) for path in folder.glob("ranges-*.bin")]
    return [
        (name[site], depth)
        for ring in found
        for site, depth in zip(ring["site"].tolist(), ring["depth"].tolist(), strict=True)
    ]


def test_a_site_is_what_it_was_registered_with(folder):
    values = {"role": "input", "shape": ["512", "1024"], "fused": False}
    site = ranges.site("quantize", "quantize input", phase="forward", module="layers.0", **values)
    assert ranges.site("quantize", "quantize input", module="layers.0", phase="forward", **values) == site
    line = json.loads((folder / "sites.jsonl").read_text().splitlines()[-1])
    wanted = {"site": site, "kind": "quantize", "name": "quantize input", "phase": "forward", "module": "layers.0"}
    assert line == {**wanted, **values} == dict(ranges.describe(site))
    others = [
        ranges.site("gemm", "quantize input", phase="forward", module="layers.0", **values),
        ranges.site("quantize", "quantize", phase="forward", module="layers.0", **values),
        ranges.site("quantize", "quantize input", module="layers.0", **values),
        ranges.site("quantize", "quantize input", phase="forward", **values),
        ranges.site("quantize", "quantize input", phase="forward", module="layers.0", **{**values, "fused": True}),
    ]
    assert len({site, *others}) == 6
    assert dict(ranges.describe(-1)) == {}


def test_a_recording_lists_what_was_registered_before_it(tmp_path):
    site = ranges.site("annotate", "registered while off")
    ranges.open(tmp_path)
    ranges.push(site)
    ranges.pop()
    ranges.close()
    assert names(tmp_path) == [("registered while off", 0)]
    ranges.site("annotate", "registered after the end")
    assert "after the end" not in (tmp_path / "sites.jsonl").read_text()


def test_what_is_a_module_to_the_extension(folder):
    inside = {}
    for kind, phase in [("module", "forward"), ("module", "recompute"), ("module", "backward"), ("gemm", "forward")]:
        site = ranges.site(kind, "x", phase=phase)
        ranges.push(site)
        inside[kind, phase] = ranges.current_module() == site
        ranges.pop()
    assert inside == {
        ("module", "forward"): True,
        ("module", "recompute"): True,
        ("module", "backward"): True,
        ("gemm", "forward"): False,
    }


def test_threads_agree_on_a_site(folder):
    found, begin = [], threading.Barrier(8)

    def work():
        begin.wait()
        found.extend(ranges.site("annotate", f"shared {number}") for number in range(200))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 1600
    assert len(set(found)) == 200


def test_a_full_disk_is_a_line_on_stderr(folder, monkeypatch, capsys):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(ranges, "_file", Full())
    ranges.site("annotate", "does not fit")
    ranges.site("annotate", "does not fit either")
    error = capsys.readouterr().err
    assert error == "tetrace: what ranges stand for cannot be written: [Errno 28] No space left on device\n"


def test_annotate_as_context_manager(folder):
    with ranges.annotate("outer") as entered, ranges.annotate(name="inner"):
        assert repr(entered) == "tetrace.annotate('outer')"
        with ranges.annotate("outer"):
            pass
    with contextlib.suppress(KeyError), ranges.annotate("raises"):
        ranges.push(ranges.site("annotate", "left open"))
        raise KeyError("passes through")
    assert ranges.depth() == 0
    wanted = [("outer", 0), ("inner", 1), ("outer", 2), ("raises", 0), ("left open", 1)]
    assert names(folder) == wanted


def test_an_annotation_closes_only_its_own_range(folder):
    early = ranges.annotate("entered in the recording before")
    early.__enter__()
    ranges.close()
    ranges.open(folder)
    with ranges.annotate("now"):
        early.__exit__(None, None, None)
        assert ranges.depth() == 1


def test_annotate_as_decorator(folder):
    annotation = ranges.annotate("decorated")

    @annotation
    def power(base: int, exponent: int = 2) -> int:
        """Says what it does."""
        return base if exponent == 1 else base * power(base, exponent=exponent - 1)

    class Model:
        @ranges.annotate("method")
        def forward(self, x):
            return (self, x)

        @staticmethod
        @ranges.annotate("static")
        def double(x):
            return 2 * x

    model = Model()
    assert (power(3, exponent=3), model.forward(1), Model.double(4)) == (27, (model, 1), 8)
    assert (power.__name__, power.__doc__, power.__module__) == ("power", "Says what it does.", __name__)
    assert power.__wrapped__(5, 1) == 5
    assert str(inspect.signature(power)) == "(base: 'int', exponent: 'int' = 2) -> 'int'"
    wanted = [("decorated", 0), ("decorated", 1), ("decorated", 2), ("method", 0), ("static", 0)]
    assert names(folder) == wanted


def test_coroutines_and_generators_stay_what_they_are():
    async def coroutine():
        return 1

    def generator():
        yield 1

    async def both():
        yield 1

    for function in (coroutine, generator, both):
        assert ranges.annotate("in pieces")(function) is function
    plain = ranges.annotate("whole")(functools.partial(max, 3))
    assert plain(2) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: ranges.annotate(),
        lambda: ranges.annotate(3),
        lambda: ranges.annotate("a", "b"),
        lambda: ranges.annotate(text="a"),
        lambda: ranges.annotate(*["a"], name="b"),
        lambda: ranges.annotate.__new__(ranges.annotate),
    ],
)
def test_an_annotation_is_a_name(make):
    with pytest.raises(TypeError, match=r"annotate takes one text|object.__new__"):
        make()


def test_an_odd_name_is_no_reason_to_stop(folder):
    for name in ("", "ä" * 3000, "\ud800 lone", "nul\0byte", 'quo"te\n'):
        with ranges.annotate(name):
            pass
    assert [name for name, _ in names(folder)] == ["", "ä" * 3000, "? lone", "nul\0byte", 'quo"te\n']


def test_an_error_of_ours_does_not_reach_the_script(folder, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(str(error.exc_value)))
    monkeypatch.setattr(ranges, "annotation_site", lambda name: [][0])
    with ranges.annotate("cannot be registered"):
        assert ranges.depth() == 0
    assert told == ["list index out of range"]
