"""Values of many distributions, and steps of delayed scaling in which they are quantized."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.fp8.made import Made, bfloat16

Values = npt.NDArray[np.float32]
NAME = "layers.0.fc1.input"


def drawn(kind: str, size: int = 2_000, seed: int = 0) -> Values:
    """Values of a distribution, in bf16 or fp32."""
    random = np.random.default_rng(seed)
    made = {
        "normal": lambda: random.normal(size=size),
        "fp32": lambda: random.normal(size=size) * 3,
        "uniform": lambda: random.uniform(-1, 1, size),
        "heavy": lambda: random.standard_t(3, size),
        "wide": lambda: np.exp(random.normal(size=size) * 6),
        "tiny": lambda: random.normal(size=size) * 1e-30,
        "huge": lambda: random.normal(size=size) * 1e30,
        "spread": lambda: np.exp2(random.uniform(-12, 2, size)),
        "equal": lambda: np.full(size, 1.3),
        "powers": lambda: np.exp2(random.integers(-30, 12, size)),
        "edges": lambda: np.exp2(random.integers(-20, 12, size)) * random.choice([1, 1.25, 1.5, 1.75], size),
        "outlier": lambda: np.append(random.normal(size=size - 1), 1e6),
        "zeros": lambda: np.where(random.random(size) < 0.9, 0, random.normal(size=size)),
        "one": lambda: np.array([-3.1415]),
        "subnormal": lambda: random.normal(size=size) * 1e-39,
    }[kind]()
    return made.astype(np.float32) if kind in ("fp32", "subnormal") else bfloat16(made)


def used(values: Values, scale: float, name: str, ran: str = "E4M3") -> Made:
    """Two steps of delayed scaling: one before scales were set (of a tensor of zeros), one with a scale."""
    return Made().tensor(0, NAME, np.zeros(4), scale=2.0, format=ran).tensor(1, NAME, values, scale=scale, format=ran)
