"""`tetrace.timer` around training on the CPU, whose modules work on the streams of the stand-in for CUDA."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_cuda import needs_compiler

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop  # noqa: E402

import tetrace  # noqa: E402
from tetrace.errors import UsageError  # noqa: E402
from tetrace.instrument import autograd, start  # noqa: E402
from tetrace.instrument.module_times import Driver  # noqa: E402
from tetrace.instrument.timer import Timer  # noqa: E402
from tetrace.report.module_times import summary  # noqa: E402

pytestmark = needs_compiler


class Work(torch.autograd.Function):
    """Takes `forward_ns` on the current stream, and `backward_ns` in backward."""

    @staticmethod
    def forward(ctx, x, gpu, forward_ns, backward_ns):
        ctx.gpu, ctx.backward_ns = gpu, backward_ns
        gpu.work(forward_ns)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.gpu.work(ctx.backward_ns)
        return gradient, None, None, None


class Piece(nn.Module):
    def __init__(self, gpu, forward_ns, backward_ns):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.gpu, self.times = gpu, (forward_ns, backward_ns)

    def forward(self, x):
        return Work.apply(x * self.weight, self.gpu, *self.times)


class Block(nn.Module):
    """300 ns forward and 700 backward, of which 100 and 200 are its own, after its piece's."""

    def __init__(self, gpu):
        super().__init__()
        self.piece, self.gpu = Piece(gpu, 200, 500), gpu

    def forward(self, x):
        return Work.apply(self.piece(x), self.gpu, 100, 200)


class Model(nn.Module):
    def __init__(self, gpu, call=lambda layer, x: layer(x)):
        super().__init__()
        self.layers = nn.ModuleList(Block(gpu) for _ in range(2))
        self.head = Piece(gpu, 1000, 3000)
        self.call = call

    def forward(self, x):
        for layer in self.layers:
            x = self.call(layer, x)
        return self.head(x)


def driver(cuda, ready=lambda: True):
    return Driver(cuda.path, cuda.get_device, cuda.get_stream, lambda: cuda.source, ready)


def train(cuda, model, steps=5, accumulate=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: cuda.work(50))
    losses = []
    for _ in range(steps):
        for _ in range(accumulate):
            loss = Work.apply(model(torch.ones(3)).sum(), cuda, 7, 11)
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def measured(timer):
    """{(module, phase): (steps, calls, ns of a step)}."""
    table = timer.columns()
    columns = [table[name] for name in ("module", "phase", "steps", "count", "mean_ns")]
    return {(one[0], one[1]): tuple(one[2:]) for one in zip(*columns, strict=True)}


def expected(steps):
    names = ("Model", "layers.0", "layers.1", "layers.0.piece", "layers.1.piece", "head")
    forward = dict(zip(names, (1600, 300, 300, 200, 200, 1000), strict=True))
    backward = dict(zip(names, (4400, 700, 700, 500, 500, 3000), strict=True))
    return {
        **{(name, "forward"): (steps, steps, ns) for name, ns in forward.items()},
        **{(name, "backward"): (steps, steps, ns) for name, ns in backward.items()},
        ("(loss)", "backward"): (steps, steps, 11),
        ("(step)", "all"): (steps, steps, 1600 + 7 + 11 + 4400 + 50),
    }


def test_forward_and_backward_of_every_module(cuda):
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        train(cuda, model, steps=5)
    found = measured(timer)
    assert found.pop(("(optimizer)", "optimizer"))[:2] == (4, 4)
    assert found == expected(steps=4)
    assert timer.notes() == []


def test_only_every_nth_step(cuda):
    model = Model(cuda)
    with Timer(model, every=10, show=False, driver=driver(cuda)) as timer:
        train(cuda, model, steps=35)
    assert measured(timer)["Model", "forward"] == (3, 3, 1600)
    history = timer.history()
    assert sorted(set(history["step"])) == [10, 20, 30]
    head = history[history["module"] == "head"][["step", "phase", "count", "stream_elapsed_ns"]]
    # Rows of a step are in the order in which this process first met their places: other tests may have met them before.
    assert sorted(head.values.tolist()) == [
        [step, phase, 1, ns]
        for step, (phase, ns) in itertools.product((10, 20, 30), (("backward", 3000), ("forward", 1000)))
    ]


def test_too_few_steps_are_told(cuda):
    model = Model(cuda)
    with Timer(model, show=False, driver=driver(cuda)) as timer:
        train(cuda, model, steps=5)
    assert timer.columns()["module"] == []
    assert timer.notes() == ["no step was measured: 5 ended, and the first to be is step 10"]


def test_without_cuda(cuda):
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda, lambda: False)) as timer:
        train(cuda, model, steps=5)
    assert timer.notes() == ["nothing was measured: CUDA was not in use"]


def test_gradient_accumulation_sums_in_a_step(cuda):
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        train(cuda, model, steps=3, accumulate=4)
    found = measured(timer)
    found.pop(("(optimizer)", "optimizer"))
    assert found["Model", "backward"] == (2, 8, 4 * 4400)


def test_without_the_observer_hooks_follow_backward(cuda, monkeypatch):
    monkeypatch.setattr(autograd, "can_observe", lambda: False)
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        train(cuda, model)
    found = measured(timer)
    assert found["layers.0", "backward"] == (4, 4, 700)
    assert found["layers.1.piece", "backward"] == (4, 4, 500)
    assert found["head", "backward"] == (4, 4, 3000)


def test_recomputed_modules(cuda):
    model = Model(cuda, lambda layer, x: checkpoint(layer, x, use_reentrant=False))
    with set_checkpoint_early_stop(False), Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        x = torch.ones(3, requires_grad=True)
        for _ in range(3):
            model(x).sum().backward()
            tetrace.step()
    found = measured(timer)
    assert found["layers.0", "forward"] == (2, 2, 300)
    assert found["layers.0", "recompute"] == (2, 2, 300)
    assert found["head", "backward"][2] >= 3000


@pytest.mark.parametrize(
    ("options", "modules"),
    [
        ({"depth": 0}, {"Model"}),
        ({"depth": 2}, {"Model", "layers.0", "layers.1", "head"}),
        ({"modules": "layers.*"}, {"layers.0", "layers.1", "layers.0.piece", "layers.1.piece"}),
        ({"modules": ("*.piece", "head")}, {"layers.0.piece", "layers.1.piece", "head"}),
    ],
)
def test_fewer_modules(cuda, options, modules):
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda), **options) as timer:
        train(cuda, model)
    found = measured(timer)
    whole = expected(steps=4)
    assert {name for name, phase in found if phase == "forward"} == modules
    assert {key: row for key, row in found.items() if key[1] in ("forward", "backward") and key[0] != "(loss)"} == {
        (name, phase): whole[name, phase] for name in modules for phase in ("forward", "backward")
    }


def test_other_models_are_left_out(cuda):
    model, other = Model(cuda), Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        train(cuda, nn.ModuleList([model, other])[1], steps=1)
        train(cuda, model)
    assert {name for name, phase in measured(timer) if phase == "forward"} == {
        name for name, phase in expected(1) if phase == "forward"
    }


class Wrapper(nn.Module):
    """Has the path of what it wraps, as DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


Wrapper.__name__ = "DistributedDataParallel"


def test_a_wrapper_and_what_it_wraps_are_one_module(cuda):
    model = Wrapper(Model(cuda))
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        train(cuda, model)
    found = measured(timer)
    found.pop(("(optimizer)", "optimizer"))
    assert found == expected(steps=4)


def test_within_a_recording(cuda, tmp_path):
    """The recording's own patches serve both, and stay when the timer ends."""
    model = Model(cuda)
    start.start(tmp_path, {"ranges": "modules"})
    try:
        train(cuda, model, steps=2)
        with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
            train(cuda, model, steps=4)
        train(cuda, model, steps=2)
    finally:
        start.stop()
    assert measured(timer)["layers.0", "backward"][2] == 700
    assert len(list(tmp_path.glob("process-*/ranges-*.bin"))) >= 1


def test_training_is_the_same_and_nothing_is_left(cuda):
    plain_call, plain_backward = nn.Module._call_impl, torch.autograd.graph._engine_run_backward
    torch.manual_seed(0)
    plain = train(cuda, Model(cuda))
    torch.manual_seed(0)
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)):
        assert train(cuda, model) == plain
    assert nn.Module._call_impl is plain_call
    assert torch.autograd.graph._engine_run_backward is plain_backward


def test_an_exception_leaves_what_was_measured(cuda):
    model = Model(cuda)
    with pytest.raises(ZeroDivisionError), Timer(model, every=1, show=False, driver=driver(cuda)) as timer:  # noqa: PT012
        train(cuda, model, steps=4)
        raise ZeroDivisionError
    assert measured(timer)["head", "forward"] == (3, 3, 1000)


def test_the_history_file(cuda, tmp_path):
    import pyarrow.parquet as pq

    model, path = Model(cuda), tmp_path / "times.parquet"
    with Timer(model, every=2, show=False, history=path, driver=driver(cuda)) as timer:
        train(cuda, model, steps=7)
    table = pq.read_table(path)
    assert table.column_names == ["step", "module", "phase", "count", "skipped", "stream_elapsed_ns"]
    assert table.to_pandas().astype(object).equals(timer.history().astype(object))
    assert sorted(set(table["step"].to_pylist())) == [2, 4, 6]


def test_each_rank_has_its_history_and_the_first_one_speaks(cuda, tmp_path, monkeypatch, capsys):
    for rank in ("0", "3"):
        monkeypatch.setenv("RANK", rank)
        model = Model(cuda)
        options = {"every": 1, "history": tmp_path / "times.parquet", "driver": driver(cuda)}
        with Timer(model, summarize=lambda *_: "summary", **options):
            train(cuda, model, steps=3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["times-rank3.parquet", "times.parquet"]
    assert capsys.readouterr().err == "summary"


def test_the_summary_on_the_terminal(cuda, capsys):
    model = Model(cuda)
    with Timer(model, every=1, driver=driver(cuda), summarize=summary):
        train(cuda, model, steps=5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Modules on their streams, ms of a sampled step"
    assert lines[2].split()[:4] == ["(step)", "all", "0.006", "100.0%"]
    assert lines[3].split()[:2] == ["Model", "backward"]
    assert "the time that the host took" in " ".join(" ".join(lines[-2:]).split())


def test_what_cannot_be_measured_is_told(cuda):
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        train(cuda, model, steps=2)
        cuda.capture(1)
        model(torch.ones(3)).sum().backward()
        cuda.capture(1, 0)
        train(cuda, model, steps=1)
    assert "were captured into CUDA graphs" in timer.notes()[0]


def test_a_thread_of_its_own_per_model(cuda):
    """Two models trained at once, on streams of their own."""
    models = [Model(cuda), Model(cuda)]
    both = nn.ModuleList(models)

    def work(number):
        cuda.use(1 + number)
        for _ in range(20):
            models[number](torch.ones(3)).sum().backward()

    with Timer(both, every=1, show=False, driver=driver(cuda)) as timer:
        tetrace.step()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tetrace.step()
    found = measured(timer)
    assert sum(calls for name in ("0.head", "1.head") for _, calls, _ in [found[name, "forward"]]) == 40


class Elsewhere(Piece):
    """Its parameters are on device 1, where its kernels run, whichever device is current when it is called."""

    def parameters(self, recurse=True):
        yield SimpleNamespace(device=torch.device("cuda", 1))

    def forward(self, x):
        self.gpu.use(0, device=1)
        result = super().forward(x)
        self.gpu.use(1)
        return result


def test_a_module_is_timed_on_the_device_of_its_parameters(cuda):
    model = nn.Sequential(Piece(cuda, 100, 1), Elsewhere(cuda, 30, 1))
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        tetrace.step()
        model(torch.ones(3)).sum().backward()
        tetrace.step()
    found = measured(timer)
    assert (found["0", "forward"], found["1", "forward"]) == ((1, 1, 100), (1, 1, 30))
    assert found["Sequential", "forward"] == (1, 1, 100)


class Meeting(Work):
    """Its backward works before and after another thread has been through its own."""

    @staticmethod
    def backward(ctx, gradient):
        ctx.gpu.work(10)
        ctx.gpu.at.set()
        ctx.gpu.other_done.wait(10)
        ctx.gpu.work(ctx.backward_ns)
        return gradient, None, None, None


@pytest.mark.parametrize("observed", [True, False])
def test_a_backward_ends_while_one_runs_in_another_thread(cuda, monkeypatch, observed):
    if not observed:
        monkeypatch.setattr(autograd, "can_observe", lambda: False)
    cuda.at, cuda.other_done = threading.Event(), threading.Event()
    long, short = Piece(cuda, 1, 1000), Piece(cuda, 2, 30)
    long.forward = lambda x: Meeting.apply(x * long.weight, cuda, 1, 1000)

    def train_long():
        cuda.use(1)
        long(torch.ones(3)).sum().backward()

    def train_short():
        cuda.use(2)
        cuda.at.wait(10)
        short(torch.ones(3)).sum().backward()
        cuda.other_done.set()

    with Timer(nn.ModuleList([long, short]), every=1, show=False, driver=driver(cuda)) as timer:
        tetrace.step()
        threads = [threading.Thread(target=train_long), threading.Thread(target=train_short)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tetrace.step()
    found = {(name, count, ns) for (name, phase), (_, count, ns) in measured(timer).items() if phase == "backward"}
    assert {(name, count, ns) for name, count, ns in found if name != "(loss)"} == {("0", 1, 1010), ("1", 1, 30)}
    assert timer.notes() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every=0; give 1"),
        ({"depth": -1}, "depth=-1; give 0"),
        ({"history": "/nowhere/times.parquet"}, "/nowhere cannot be written to"),
    ],
)
def test_bad_options(cuda, options, said):
    with pytest.raises(UsageError, match=said), Timer(nn.Linear(1, 1), driver=driver(cuda), **options):
        pass
    with pytest.raises(UsageError, match="the model is a str"):
        Timer("model")


def test_one_timer_at_a_time(cuda, capsys):
    model = Model(cuda)
    with Timer(model, every=1, show=False, driver=driver(cuda)) as timer:
        with Timer(model, every=1, driver=driver(cuda)) as other:
            train(cuda, model, steps=3)
        train(cuda, model, steps=2)
    assert measured(timer)["head", "forward"][0] == 4
    assert (other.columns()["module"], len(other.history())) == ([], 0)
    assert other.notes() == ["nothing was measured: the timer was not entered, or another one ran"]
    assert "a timer measures nothing while modules are measured" in capsys.readouterr().err


def test_a_timer_is_used_once(cuda):
    timer = Timer(nn.Linear(1, 1), show=False, driver=driver(cuda))
    with timer:
        pass
    with pytest.raises(UsageError, match="has been used"), timer:
        pass


# What of libc10_cuda the observer looks up: the same names and layout as torch's own.
C10_CUDA = """
#include <c10/core/Stream.h>
namespace c10::cuda {
class CUDAStream {
 public:
  explicit CUDAStream(Stream stream) : stream_(stream) {}
  void* stream() const;
 private:
  Stream stream_;
};
__attribute__((visibility("default"))) void* CUDAStream::stream() const {
  return reinterpret_cast<void*>(0x7000 + stream_.id());
}
__attribute__((visibility("default"))) CUDAStream getCurrentCUDAStream(DeviceIndex index) {
  if (index > 3) throw 1;
  return CUDAStream(Stream(Stream::UNSAFE, Device(DeviceType::CUDA, index < 0 ? 3 : index), index < 0 ? 5 : 6));
}
}
"""

ASK = """
import ctypes, sys, torch
from tetrace.instrument import module_times, observer
assert module_times._source() == 0
ctypes.CDLL(sys.argv[1])
source = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_void_p))(module_times._source())
for asked in (-1, 1, 9):
    device, stream = ctypes.c_int32(asked), ctypes.c_void_p()
    print(source(ctypes.byref(device), ctypes.byref(stream)), device.value, hex(stream.value or 0))
"""


def test_the_observer_tells_the_current_stream(tmp_path):
    """By functions of libc10_cuda, found by name in the library that is loaded."""
    (tmp_path / "c10.cpp").write_text(C10_CUDA)
    of_torch = Path(torch.__file__).parent
    library = tmp_path / "libc10_cuda.so"
    flags = ("-std=c++20", f"-I{of_torch / 'include'}", "-shared", "-fPIC", "-Wl,-soname,libc10_cuda.so")
    linked = (f"-L{of_torch / 'lib'}", "-lc10")
    subprocess.run(["c++", *flags, tmp_path / "c10.cpp", "-o", library, *linked], check=True)
    done = subprocess.run([sys.executable, "-c", ASK, str(library)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1 3 0x7005\n1 1 0x7006\n0 9 0x0\n"), done.stderr
