"""What-if is true: what Transformer Engine's own quantizers saturate and flush lies within the bounds that recorded
statistics give for them. `benchmarks/fp8_whatif.py` prints the same as a table.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.fp8 import real_casts  # noqa: E402
from tests.fp8.real_casts import BLOCK, CURRENT, DELAYED, Cast, Recorded  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    from tests.gpu.te_casts import tensors

    return Recorded(tensors())


@pytest.mark.parametrize("cast", DELAYED + CURRENT, ids=str)
def test_tensor_wise_recipes(cast: Cast, recorded: Recorded) -> None:
    from tests.gpu.te_casts import quantize

    for one in recorded.results(cast, quantize):
        assert one.is_inside, one
        assert one.width <= 0.01, one
        assert not cast.power_of_two or one.width == 0, one
        assert one.snr_off_db < 1 or one.name not in real_casts.SPREAD, one


@pytest.mark.parametrize("cast", BLOCK, ids=str)
def test_block_wise_recipes(cast: Cast, recorded: Recorded) -> None:
    from tests.gpu.te_casts import quantize

    for one in recorded.results(cast, quantize):
        assert one.is_inside, one


def test_what_ran_is_what_transformer_engine_did(recorded: Recorded) -> None:
    """The counts that are recorded of a cast, not only those of a what-if."""
    from tests.gpu.te_casts import quantize

    for one in recorded.results(DELAYED[0], quantize):
        assert (one.row.ran_saturated, one.row.ran_flushed) == (one.saturated, one.flushed), one.name
        assert one.row.ran_snr_db == pytest.approx(one.snr_db, abs=0.01), one.name
