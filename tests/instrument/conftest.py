"""Fixtures of the tests of instrumentation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fake_cuda import FakeCuda

from tetrace import _C


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory):
    library = tmp_path_factory.mktemp("cuda") / "libcuda-stand-in.so"
    source = Path(__file__).with_name("stand_in_cuda.c")
    subprocess.run(["cc", "-O1", "-g", "-shared", "-fPIC", "-pthread", "-o", library, source], check=True)
    return library


@pytest.fixture
def cuda(cuda_library):
    """A fresh one, whose current stream is 1 of device 0. Nothing that a driver would punish may have happened."""
    fake = FakeCuda(cuda_library)
    fake.enter(0)
    fake.use(1)
    yield fake
    _C.timing_reset()
    _C.ranges_close()
    _C.set_step(-1)
    fake.enter(0)
    assert (fake.count("violations"), fake.count("alive"), fake.count("retained")) == (0, 0, 0)
