"""What the observer reads of tensors, against what their methods say."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tetrace import _C
from tetrace.errors import TetraceError
from tetrace.instrument import fp8_operands, observer

_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


class Facts(ctypes.Structure):
    """The layout of csrc/watch/tensors.h."""

    _fields_ = (
        *(("data", ctypes.c_void_p), ("elements", ctypes.c_int64), ("version", ctypes.c_int64)),
        *(("dtype", ctypes.c_int32), ("device", ctypes.c_int32), ("is_dense", ctypes.c_int32)),
    )


@pytest.fixture(autouse=True)
def _reader() -> None:
    try:
        library = observer.load()
    except TetraceError as error:
        pytest.skip(str(error))
    if not observer.address(library, "tetrace_observer_tensor"):
        pytest.skip("the observer was built without Python's headers")


def read(tensor: torch.Tensor, of_gradient: bool = False) -> Facts | None:
    """None where the tensor's methods must be asked."""
    function = observer.load().tetrace_observer_tensor
    function.argtypes = [ctypes.py_object, ctypes.c_int, ctypes.POINTER(Facts)]
    facts = Facts()
    return facts if function(tensor, int(of_gradient), ctypes.byref(facts)) else None


def written_to() -> torch.Tensor:
    return torch.ones(2, 3).add_(1).mul_(2)


def in_inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 3),
        lambda: torch.ones(2, 3, dtype=torch.bfloat16),
        lambda: torch.ones(2, 3, dtype=torch.float16),
        lambda: torch.ones(2, 3, dtype=torch.float64),
        lambda: torch.arange(7),
        lambda: torch.nn.Parameter(torch.ones(5)),
        lambda: torch.ones(4, 6).t(),
        lambda: torch.ones(4, 6)[1:, 2:],
        lambda: torch.ones(0, 3),
        lambda: torch.ones(()),
        written_to,
        in_inference,
    ],
)
def test_it_reads_what_the_methods_say(make: Callable[[], torch.Tensor]) -> None:
    tensor = make()
    facts = read(tensor)
    assert facts is not None
    assert (facts.data or 0, facts.elements) == (tensor.data_ptr(), tensor.numel())
    assert facts.version == (-1 if tensor.is_inference() else tensor._version)
    assert facts.dtype == _DTYPES.get(tensor.dtype, -1)
    assert (facts.device, facts.is_dense) == (-1, 0)  # on no GPU


def freed() -> torch.Tensor:
    """As a parameter that is sharded away."""
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.ones(3, dtype=torch.complex64).conj(),
        freed,
    ],
)
def test_it_leaves_what_stands_for_other_values_to_the_methods(make: Callable[[], torch.Tensor]) -> None:
    assert read(make()) is None


def test_a_tensor_whose_memory_was_freed_has_no_values() -> None:
    assert not fp8_operands.has_values(freed())
    assert fp8_operands.has_values(torch.ones(0, 3))
    assert fp8_operands.has_values(torch.ones(3))


def test_it_leaves_tensors_of_functions_that_are_transformed_to_the_methods() -> None:
    seen = []

    def function(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(read(tensor))
        return tensor.sum()

    torch.func.grad(function)(torch.ones(3))
    torch.func.vmap(function)(torch.ones(3, 2))
    assert seen == [None, None]


def test_it_reads_a_gradient() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert read(parameter, of_gradient=True) is None
    (parameter * 2).sum().backward()
    facts = read(parameter, of_gradient=True)
    assert facts is not None
    assert parameter.grad is not None
    assert (facts.data, facts.elements, facts.dtype) == (parameter.grad.data_ptr(), 3, 2)


def test_parameters_on_no_gpu_are_left_to_python() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    _C.watch_begin(None, None, None, torch.Tensor, torch.nn.Parameter, [], False)
    _C.watch_reader(observer.address(observer.load(), "tetrace_observer_tensor"))
    try:
        assert _C.watch_parameters([5, -1, 7], parameters, of_gradients=False) == []  # not switched on
        _C.watch_switch(True)
        assert _C.watch_parameters([5, -1, 7], parameters, of_gradients=False) == [0, 2]
        assert _C.watch_parameters([5, -1, 7], parameters, of_gradients=True) == [0, 2]
    finally:
        _C.watch_switch(False)
        _C.watch_end()


def test_it_is_built_without_reading_where_that_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *READS_TENSORS*) exit 1;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    built = observer.build()
    library = ctypes.CDLL(str(built))
    assert observer.address(library, "tetrace_observer_tensor") == 0
    assert observer.address(library, "tetrace_observer_stream") != 0
