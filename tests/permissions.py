"""Processes that the permissions of files bind, also where tests run as root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

_DROP_FROM_BOUNDING_SET, _MAY_WRITE_ANYWHERE = 24, 1  # PR_CAPBSET_DROP and CAP_DAC_OVERRIDE of Linux' headers

needs_permissions = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def bind() -> None:
    """For `preexec_fn`: what is executed next may write only where its user may."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, _MAY_WRITE_ANYWHERE, 0, 0, 0) != 0:
        raise OSError("this root may not give up rights")


def skip_unless_bound() -> None:
    """Skips the test where nothing can be kept from this user."""
    try:
        subprocess.run([sys.executable, "-c", ""], preexec_fn=bind, check=True)
    except subprocess.SubprocessError:
        pytest.skip("permissions of files do not bind this root")
