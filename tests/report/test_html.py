"""What an HTML report holds, without a browser: numbers that add up, and a page that names cannot break."""

from __future__ import annotations

import base64
import gzip
import importlib
import json
import re
import sys
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from tests.report.runs import breakdown_of, recorded, three_steps
from tests.traces import Recording
from tetrace.breakdown.analysis import Breakdown
from tetrace.breakdown.busy_categories import ORDER, busy_by_category
from tetrace.breakdown.gemm_shapes import gemm_shapes
from tetrace.breakdown.hierarchy import hierarchy
from tetrace.breakdown.tables import RECORDED_CALLS, Table
from tetrace.errors import UsageError
from tetrace.report.html import Html, bars
from tetrace.report.html.data import document
from tetrace.report.html.icicle import pruned, tree
from tetrace.report.html.material import Material
from tetrace.report.html.page import SCRIPTS, page
from tetrace.report.html.plotly_script import DRAWN, quick
from tetrace.report.html.step_bars import steps as steps_chart
from tetrace.report.reporter import Options

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<b>bold</b><a href='javascript:alert(1)'>",
    "\x1b[31mred\x1b[0m \x07",
    "\u202egnp.exe \u2067rtl",
    "{{DATA}} {{PLOTLY}} %{label} ${1} `",
    "<!-- <script>",
    "__proto__",
    "x" * 100_000,
)


def hostile() -> Recording:
    """Two hostile kernels, calls and ranges a name, in two steps."""
    recording, at = Recording(), 0.0
    for step in range(3):
        recording.range(f"step_{step}", at, at + 200)
        for place, name in enumerate(HOSTILE):
            begin = at + 20 * place
            recording.range(name, begin, begin + 18)
            recording.launch(name, (begin + 2, begin + 3), (begin + 5, begin + 9))
        at += 200
    return recording


def data_of(breakdown: Breakdown) -> dict[str, Any]:
    """The report's data as JSON gives it back."""
    whole: dict[str, Any] = json.loads(json.dumps(document(breakdown, Options(version="1")), allow_nan=False))
    return whole


def blocks(data: dict[str, Any], section: str, kind: str) -> list[dict[str, Any]]:
    """Blocks of a type in a section."""
    (found,) = [one for one in data["sections"] if one["id"] == section]
    return [block for block in found["blocks"] if block["type"] == kind]


def _bundle(*kinds: str) -> str:
    """A script in the form of plotly.min.js, with these kinds of charts."""
    modules = "".join(
        f'var t{place}=ye((e,t)=>{{"use strict";t.exports={{plot:p(),moduleType:"trace",name:"{kind}",meta:{{}}}}}});'
        f'var a{place}=ye((e,t)=>{{"use strict";t.exports=t{place}()}});'
        for place, kind in enumerate(kinds)
    )
    entries = ",".join(f"a{place}()" for place in range(len(kinds)))
    return (
        f'/* MIT */(function(root, factory) {{}} (self, () => {{\n"use strict";var Plotly=(()=>{{{modules}'
        f"core.register([{entries}]);return core}})();\nreturn Plotly;\n}}));"
    )


class Elements(HTMLParser):
    """Scripts and every other element with what could run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.suspects: list[tuple[str, str, str | None]] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")
        self.suspects += [(tag, k, v) for k, v in attrs if k in ("src", "href") or k.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"


class TestNumbers:
    """Every picture adds up to the tables."""

    @pytest.mark.parametrize("steps", ["steady", "all"])
    @pytest.mark.parametrize("name", ["te4-fp8.sqlite", "ddp-straggler.sqlite", "graphs-node.sqlite"])
    def test_categories_of_busy_time(self, name: str, steps: str) -> None:
        breakdown = recorded(name, steps)
        busy = busy_by_category(breakdown)
        assert busy.windows.sum(axis=1).tolist() == breakdown.tables["steps"]["busy_ns"].tolist()
        assert busy.lanes.sum(axis=1).tolist() == breakdown.tables["lanes"]["busy_ns"].tolist()
        exposed = breakdown.tables["lanes"]["exposed_communication_ns"].tolist()
        assert busy.lanes[:, ORDER.index("communication")].tolist() == exposed

    def test_time_of_two_categories_at_once_counts_once(self) -> None:
        run = Recording().range("step_0", 0, 50).range("step_1", 50, 100)
        run.launch("cublas_gemm", (0, 1), (10, 30)).launch("ncclDevKernel_AllReduce_Sum", (1, 2), (20, 40), stream=8)
        run.launch("cublas_gemm", (50, 51), (60, 70)).launch(
            "ncclDevKernel_AllReduce_Sum", (51, 52), (70, 75), stream=8
        )
        totals = busy_by_category(breakdown_of(run, "all")).totals()
        assert totals == {"gemm": 30_000, "communication": 15_000}

    def test_the_bar_of_an_average_step(self) -> None:
        data = data_of(recorded("te4-fp8.sqlite"))
        assert sum(part["ns"] for part in data["wall"]["parts"]) == data["wall"]["ns"]
        assert data["wall"]["ns"] == recorded("te4-fp8.sqlite").totals.wall_ns

    def test_leaves_are_all_activity(self) -> None:
        breakdown = recorded("te4-fp8.sqlite")
        leaves = hierarchy(breakdown)
        assert sum(leaf.total_ns for leaf in leaves) == breakdown.totals.activity_ns
        assert sum(leaf.count for leaf in leaves) == breakdown.totals.activities

    def test_every_node_of_the_icicle_is_the_sum_of_its_children(self) -> None:
        whole = tree(hierarchy(recorded("te4-fp8.sqlite")))
        waiting = [whole, pruned(whole, whole.total_ns // 50)]
        assert waiting[1].size() < whole.size()
        seen = 0
        while waiting:
            node = waiting.pop()
            children = list(node.children.values())
            seen += 1
            if children:
                assert sum(child.total_ns for child in children) == node.total_ns
                assert sum(child.count for child in children) == node.count
            waiting += children
        assert seen > 100

    def test_bars_of_steps_are_their_wall_time(self) -> None:
        breakdown = recorded("te4-fp8.sqlite")
        spec = steps_chart(Material(breakdown))
        assert spec is not None
        stacks = [trace["y"] for trace in spec["data"] if trace["type"] == "bar"]
        for place, wall in enumerate(breakdown.tables["steps"]["wall_ns"].tolist()):
            assert sum(stack[place] for stack in stacks) == pytest.approx(wall / 1e6, abs=1e-5)

    def test_many_steps_are_few_bars(self) -> None:
        run = Recording()
        for step in range(900):
            run.range(f"step_{step}", 10 * step, 10 * step + 10)
            run.launch("gemm", (10 * step + 1, 10 * step + 2), (10 * step + 3, 10 * step + 6))
        spec = steps_chart(Material(breakdown_of(run)))
        assert spec is not None
        assert len(spec["data"][0]["y"]) < 210
        assert "0–4" in spec["layout"]["xaxis"]["ticktext"]

    def test_gemms_of_a_shape(self) -> None:
        words = {"kind": "gemm", "phase": "forward", "role": "fprop", "call": "gemm", "dtype": "bfloat16"}
        rows = [
            {**words, "module": m, "format": "E4M3", "shape": s, "count": 2, "activities": 2, "total_ns": ns}
            for m, s, ns in (("a", "64x32x16", 1000), ("b", "64x32x16", 3000), ("a", "", 500))
        ]
        rows.append({**rows[0], "kind": "quantize"})
        columns = {c.name: [row[c.name] for row in rows] for c in RECORDED_CALLS.columns}
        import numpy as np

        table = Table(RECORDED_CALLS, {k: np.array(v) if isinstance(v[0], int) else v for k, v in columns.items()})
        first, second = gemm_shapes(table)
        assert (first.shape, first.modules, first.count, first.total_ns) == ("64x32x16", 2, 4, 4000)
        assert first.flops == pytest.approx(2 * 64 * 32 * 16 * 4 / 4e-6)
        assert (second.shape, second.flops) == ("", -1.0)


class TestSections:
    """What is there, and what is said where something was not captured."""

    def test_nothing_recorded_is_said(self) -> None:
        data = data_of(breakdown_of(three_steps()))
        (text,) = blocks(data, "fp8", "text")
        assert "not recorded" in text["text"]
        assert "ranks" not in [section["id"] for section in data["sections"]]

    def test_ranks_where_there_are_several(self) -> None:
        data = data_of(recorded("ddp-straggler.sqlite"))
        (chart,) = blocks(data, "ranks", "chart")
        assert len(chart["spec"]["data"][0]["y"]) == 2
        (choice,) = blocks(data, "steps", "choice")
        assert len(choice["blocks"]) == 2

    def test_calls_that_were_not_captured_are_not_zero(self) -> None:
        run = three_steps(ranges=False)
        run.calls.clear()
        data = data_of(breakdown_of(run, "all"))
        (facts,) = blocks(data, "launches", "facts")
        assert [row["value"] for row in facts["rows"]] == ["not captured"]
        assert "—" in [figure["value"] for figure in data["figures"]]

    def test_a_recording_without_a_gpu(self) -> None:
        data = data_of(breakdown_of(Recording().range("step_0", 0, 10).range("step_1", 10, 20)))
        assert data["wall"] is None
        assert "held" in [section["id"] for section in data["sections"]]

    def test_findings_that_cost_no_time_have_their_word(self) -> None:
        found = data_of(recorded("stability-e4m3.tetrace"))["findings"]
        assert [one["cost"] for one in found if one["title"].startswith("FP8")] == ["clipped", "flushed", "flushed"]
        assert "0 ns" not in [one["cost"] for one in found]

    def test_tables_can_be_sorted_by_their_integers(self) -> None:
        (table,) = blocks(data_of(recorded("te4-fp8.sqlite")), "kernels", "table")
        grid = table["grid"]
        heads = [column["head"] for column in grid["columns"]]
        keys = grid["keys"][heads.index("ms/step")]
        assert keys == recorded("te4-fp8.sqlite").tables["kernels"]["total_ns"].tolist()
        assert all(len(row) == len(heads) for row in grid["rows"])


class TestPage:
    """One file, which asks for nothing and which no name can break out of."""

    def test_it_loads_nothing(self) -> None:
        text = Html(Options(version="1")).documents(recorded("te4-fp8.sqlite"))[""]
        assert isinstance(text, str)
        found = Elements(text)
        assert found.suspects == [("link", "href", "data:,"), ("a", "href", "#verdict")]
        assert "default-src 'none'" in text
        assert len(found.scripts) == 3
        unpacked = gzip.decompress(base64.b64decode(found.scripts[1])).decode()
        installed = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        assert unpacked == quick(installed)
        (kinds,) = re.findall(r"\.register\(\[(.*?)\]\)", unpacked)
        assert kinds.count(",") + 1 == len(DRAWN)

    def test_hostile_names_stay_data(self) -> None:
        breakdown = breakdown_of(hostile())
        text = Html(Options(version="1")).documents(breakdown)[""]
        plain = Html(Options(version="1")).documents(breakdown_of(three_steps()))[""]
        assert isinstance(text, str)
        assert isinstance(plain, str)
        assert Elements(text).tags == Elements(plain).tags
        data = json.loads(Elements(text).scripts[0])
        assert len(Elements(text).scripts[0]) < 1_500_000
        (table,) = [block for section in data["sections"] if section["id"] == "kernels" for block in section["blocks"]]
        names = [cell if isinstance(cell, str) else cell[1] for cell, *_ in table["grid"]["rows"]]
        assert HOSTILE[0] in names
        assert not any("\x1b" in name or "\u202e" in name or "\u2067" in name for name in names)
        assert max(map(len, names)) <= 1200

    def test_plotly_gets_no_markup(self) -> None:
        data = data_of(breakdown_of(hostile()))
        specs = [block["spec"] for section in data["sections"] for block in section["blocks"] if "spec" in block]
        words = json.dumps(specs)
        for tag in re.findall(r"<[^>]*>", words):
            assert tag in ("<br>", "<b>", "</b>", "<extra>", "</extra>"), tag
        assert "&lt;script&gt;" in words
        assert "%{label} ${1}" not in words

    def test_a_hostile_title(self) -> None:
        title = "</title><script>alert(1)</script>"
        text = page(title, {"title": title})
        assert Elements(text).tags.count("script") == 3
        assert json.loads(Elements(text).scripts[0]) == {"title": title}

    def test_a_placeholder_in_the_data_is_not_filled(self) -> None:
        assert json.loads(Elements(page("t", {"a": "{{PLOTLY}}{{STYLE}}"})).scripts[0]) == {"a": "{{PLOTLY}}{{STYLE}}"}

    def test_nothing_is_written_as_markup(self) -> None:
        """No script makes elements out of text."""
        templates = files("tetrace.report.html") / "templates"
        for name in SCRIPTS:
            text = (templates / name).read_text(encoding="utf-8")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), (
                name
            )

    def test_without_plotly_the_way_out_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "plotly", None)
        monkeypatch.setattr(importlib.import_module("tetrace.report.html"), "find_spec", lambda _: None)
        with pytest.raises(UsageError, match="pip install 'plotly"):
            Html(Options())

    def test_one_table_alone_is_no_page(self) -> None:
        with pytest.raises(UsageError, match="leave --by and --kernel out"):
            Html(Options(by="kernel"))


class TestPlotly:
    """What a page takes of plotly.js."""

    def test_kinds_of_charts_that_reports_draw_are_registered(self) -> None:
        assert quick(_bundle("bar", "pie", "heatmap", "icicle")) == (
            _bundle("bar", "pie", "heatmap", "icicle")
            .replace("[a0(),a1(),a2(),a3()]", "[a0(),a2(),a3()]")
            .replace("() => {", "(() => {")
            .replace("}));", "})));")
        )

    @pytest.mark.parametrize(
        "script",
        [_bundle("bar", "heatmap"), _bundle("bar", "heatmap", "icicle").removesuffix(");"), "var Plotly={};", ""],
        ids=["a kind is missing", "another wrapper", "another script", "nothing"],
    )
    def test_a_script_of_another_form_is_taken_as_it_is(self, script: str) -> None:
        assert quick(script) == script


def test_a_format_has_one_colour_in_every_report() -> None:
    colors: dict[str, set[str]] = {}
    for name in ("te4-fp8.sqlite", "stability-e4m3.tetrace", "te4-bf16.sqlite", "kineto_qwen_h100.json.gz"):
        spec = bars.gemm_formats(Material(recorded(name)))
        assert spec is not None
        for trace in spec["data"]:
            colors.setdefault(trace["name"], set()).add(trace["marker"]["color"])
    assert colors == {
        "E4M3": {"#7711ff"}, "E4M3×E5M2": {"#aa5599"}, "BF16": {"#aa9988"}, "FP32": {"#1199ff"},
        "unknown format": {"#b9c0c8"},
    }  # fmt: skip
    assert bars.format_marker("E5M2×E4M3") == bars.format_marker("E4M3×E5M2")
    striped = bars.format_marker("BF16×FP32")
    assert (striped["color"], striped["pattern"]["fgcolor"]) == ("#aa9988", "#1199ff")
