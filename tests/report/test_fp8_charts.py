"""The page's maps of FP8 values: which cells lead to a history, and what colours say."""

from __future__ import annotations

import itertools

import pytest

from tests.fp8.made import Made
from tests.report.runs import recorded
from tests.report.test_html import data_of
from tetrace.attribute.attribution import attribute
from tetrace.breakdown import fp8_maps
from tetrace.breakdown.analysis import break_down
from tetrace.report.html import fp8_charts
from tetrace.report.html.material import Material


class TestFp8Map:
    """Which cells lead to a history, and what colours say."""

    def test_every_cell_of_a_recording_that_fits_has_its_history(self) -> None:
        material = Material(recorded("stability-e4m3.tetrace"))
        for measure in fp8_charts.MEASURES:
            spec = fp8_charts.health_map(material, measure)
            assert (spec is None) == (measure == "at_max")  # no tensor was seen as codes alone
            if spec is None:
                continue
            (trace,) = spec["data"]
            cells = zip(itertools.chain(*trace["z"]), itertools.chain(*trace["customdata"]), strict=True)
            assert all(place >= 0 and said == fp8_charts.HAS for z, (_, place, said, _) in cells if z is not None)

    def test_codes_at_the_largest_value_are_not_called_clipped(self) -> None:
        """Nor is an amax of current scaling, which lies a rounding above it at most."""
        made = Made().tensor(0, "codes.input", [1.0, 4.0], scale=448.0, source="quantized")
        made.tensor(0, "current.input", [1.0, 4.0], scaling="current", saturated=1)
        made.tensor(0, "delayed.input", [1.0, 4.0], scale=448.0)
        material = Material(break_down(attribute(made.trace()), steps="all"))
        shown = {name: fp8_charts.health_map(material, name) for name in ("clipped", "at_max")}
        cells = {name: spec["data"][0]["z"] for name, spec in shown.items() if spec}
        assert cells == {"clipped": [[None], [0], [0.5]], "at_max": [[0.5], [None], [None]]}
        (section,) = [one for one in data_of(material.breakdown)["sections"] if one["id"] == "fp8"]
        titles = [block["title"] for block in section["blocks"][0]["blocks"]]
        assert titles == ["Range used", "Clipped", "Codes at ±max", "Flushed", "NaN and Inf"]

    @pytest.mark.parametrize("scaling", ["block", "current"])
    def test_of_block_scaling_it_is_said_which_copy_was_looked_at(self, scaling: str) -> None:
        made = Made().tensor(0, "a.input", [[1.0, 4.0]], scaling=scaling)
        (section,) = [
            one for one in data_of(break_down(attribute(made.trace()), steps="all"))["sections"] if one["id"] == "fp8"
        ]
        assert ("are of the copy by rows" in section["lead"]) == (scaling == "block")

    def test_what_is_worst_is_kept_and_the_rest_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fp8_maps, "_MOST_POINTS", 10 * (21 + fp8_maps._POINTS_BESIDE))
        material = Material(recorded("stability-e4m3.tetrace"))
        maps = material.fp8
        assert maps is not None
        assert (len(maps.histories), maps.without_history) == (10, 179)
        problems = list(dict.fromkeys(one.name for one in maps.health.problems))
        assert [history.name for history in maps.histories] == problems[:10]
        spec = fp8_charts.health_map(material, "clipped")
        assert spec is not None
        said = {one for row in spec["data"][0]["customdata"] for _, place, one, _ in row if place < 0}
        assert said == {"its history is not in this file"}
        (section,) = [one for one in data_of(material.breakdown)["sections"] if one["id"] == "fp8"]
        assert section["blocks"][1]["more"] == "10 of 189 tensors; 179 are left out"

    def test_a_long_run_stays_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fp8_maps, "_MOST_CELLS", 33 * 7)
        material = Material(recorded("stability-e4m3.tetrace"))
        maps = material.fp8
        assert maps is not None
        assert (len(maps.steps), maps.steps_left_out, maps.steps[-1]) == (7, 14, 20)
        assert {len(history.steps) for history in maps.histories} == {7}
        spec = fp8_charts.health_map(material, "flushed")
        assert spec is not None
        assert "7 of 21 recorded steps are shown" in spec["layout"]["meta"]["note"]

    @pytest.mark.parametrize(
        ("measure", "last", "unit"),
        [
            ("range_used", "≥ 200%", "of the format's largest value"),
            ("clipped", "≥ 1%", "of the elements"),
            ("flushed", "≥ 20%", "of what is not zero"),
            ("not_finite", "≥ 1", "elements"),
        ],
    )
    def test_the_last_colour_is_at_least_its_number(self, measure: str, last: str, unit: str) -> None:
        spec = fp8_charts.health_map(Material(recorded("stability-e4m3.tetrace")), measure)
        assert spec is not None
        bar = spec["data"][0]["colorbar"]
        assert (bar["ticktext"][-1], bar["title"]["text"]) == (last, unit)
        assert bar["tickvals"][-1] == spec["data"][0]["zmax"]
