"""The colours of charts: every category has one, and people with any colour blindness tell the frequent ones apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.gaps import CAUSES
from tetrace.report.palette import (
    CATEGORY_COLORS,
    CAUSE_COLORS,
    CAUSE_PATTERNS,
    FORMAT_COLORS,
    PHASE_COLORS,
    UNKNOWN_FORMAT_COLOR,
    ink,
    luminance,
)

FREQUENT = (
    "gemm",
    "attention",
    "quantization",
    "normalization",
    "activation",
    "elementwise",
    "optimizer",
    "communication",
)
# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
SIMULATED = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = XYZ.sum(axis=1)


def lab(color: str, seen: str) -> np.ndarray:
    """CIELAB of a colour as somebody sees it."""
    rgb = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(SIMULATED[seen]) @ linear, 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_everything_has_a_colour_of_its_own() -> None:
    assert set(CATEGORY_COLORS) == set(CATEGORIES)
    assert set(CAUSE_COLORS) == set(CAUSE_PATTERNS) == set(CAUSES)
    assert set(PHASE_COLORS) == set(PHASES)
    assert len(set(CATEGORY_COLORS.values())) == len(CATEGORIES)
    assert len(set(CAUSE_PATTERNS.values())) == len(CAUSES)


@pytest.mark.parametrize("seen", SIMULATED)
def test_frequent_categories_are_told_apart(seen: str) -> None:
    distance = {
        pair: float(np.linalg.norm(lab(CATEGORY_COLORS[pair[0]], seen) - lab(CATEGORY_COLORS[pair[1]], seen)))
        for pair in combinations(FREQUENT, 2)
    }
    nearest = min(distance, key=lambda pair: distance[pair])
    assert distance[nearest] > 11, (nearest, distance[nearest])


@pytest.mark.parametrize("seen", SIMULATED)
def test_number_formats_are_told_apart_and_no_frequent_categories(seen: str) -> None:
    def distance(a: str, b: str) -> float:
        return float(np.linalg.norm(lab(a, seen) - lab(b, seen)))

    formats = [*FORMAT_COLORS.values(), UNKNOWN_FORMAT_COLOR]
    assert min(distance(*pair) for pair in combinations(FORMAT_COLORS.values(), 2)) > 20
    assert min(distance(one, CATEGORY_COLORS[name]) for one in FORMAT_COLORS.values() for name in FREQUENT) > 8
    assert not set(formats) & {*CATEGORY_COLORS.values(), *CAUSE_COLORS.values()}


@pytest.mark.parametrize("page", ["#ffffff", "#14171a"])
@pytest.mark.parametrize("name", ["E4M3", "E4M3×E5M2", "E5M2", "BF16", "FP16", "FP32"])
def test_frequent_formats_stand_out_from_the_page(name: str, page: str) -> None:
    bright, dark = sorted((luminance(FORMAT_COLORS[name]), luminance(page)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 2.4


def test_idle_time_is_grey() -> None:
    for color in CAUSE_COLORS.values():
        channels = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
        assert max(channels) - min(channels) < 30


@pytest.mark.parametrize("color", [*CATEGORY_COLORS.values(), *PHASE_COLORS.values()])
def test_words_on_a_colour_can_be_read(color: str) -> None:
    bright, dark = sorted((luminance(color), luminance(ink(color))), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 3.9
