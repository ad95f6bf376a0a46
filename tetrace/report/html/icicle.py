"""The icicle of GPU activity: phase, module by module inside, category, kernel. What is too thin to see is one node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tetrace.report.html.words import label
from tetrace.report.palette import CATEGORY_COLORS, MODULE_COLOR, PHASE_COLORS, ink
from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.hierarchy import Leaf
    from tetrace.report.html.material import Material

_MOST_NODES = 1200
_WIDE = 0.06  # a node of this share of the whole has room for its time
_THINNEST = 2000  # a node is shown when it is at least this part of the whole
_ROOT_COLOR = "#cdd5dc"
_TEXT = {"minsize": 11, "mode": "hide"}


@dataclass
class Node:
    """A node in the making: `kind` is root, phase, module, category, kernel, or rest for what was too thin."""

    name: str
    kind: str
    color: str
    total_ns: int = 0
    count: int = 0
    children: dict[tuple[str, str], Node] = field(default_factory=dict)

    def child(self, name: str, kind: str, color: str) -> Node:
        """The child of this kind and name, made where there is none."""
        return self.children.setdefault((kind, name), Node(name, kind, color))

    def size(self) -> int:
        """Nodes from here down."""
        return 1 + sum(child.size() for child in self.children.values())


def tree(leaves: Iterable[Leaf]) -> Node:
    """The whole tree; every node has the sum of its children, or is a kernel."""
    root = Node("GPU activity", "root", _ROOT_COLOR)
    for leaf in leaves:
        color = CATEGORY_COLORS[leaf.category]
        path = [root, root.child(leaf.phase, "phase", PHASE_COLORS[leaf.phase])]
        for name in _module_path(leaf.module):
            path.append(path[-1].child(name, "module", MODULE_COLOR))
        path.append(path[-1].child(leaf.category, "category", color))
        path.append(path[-1].child(leaf.kernel or "unnamed", "kernel", color))
        for node in path:
            node.total_ns += leaf.total_ns
            node.count += leaf.count
    return _joined(root)


def _module_path(module: str) -> list[str]:
    """`layers.3.mlp` level by level; pseudo-modules and names that are no paths are one level."""
    is_path = "." in module and not module.startswith("(") and " " not in module and len(module) < 300
    return module.split(".") if is_path else [module]


def _joined(node: Node) -> Node:
    """Chains of modules that hold nothing but one module are one level: `layers.3`."""
    children = {}
    for child in node.children.values():
        while child.kind == "module" and len(child.children) == 1:
            (only,) = child.children.values()
            if only.kind != "module":
                break
            child = Node(f"{child.name}.{only.name}", "module", only.color, only.total_ns, only.count, only.children)
        children[child.kind, child.name] = _joined(child)
    node.children = children
    return node


def pruned(node: Node, thinnest_ns: int) -> Node:
    """The tree with the children thinner than `thinnest_ns` as one node, where there are several."""
    thin = [child for child in node.children.values() if child.total_ns < thinnest_ns]
    kept = [child for child in node.children.values() if child.total_ns >= thinnest_ns]
    result = Node(node.name, node.kind, node.color, node.total_ns, node.count)
    if len(thin) == 1:
        kept, thin = [*kept, *thin], []
    for child in sorted(kept, key=_order):
        result.children[child.kind, child.name] = pruned(child, thinnest_ns)
    if thin:
        rest = result.child(f"{len(thin)} smaller", "rest", _ROOT_COLOR)
        rest.total_ns, rest.count = sum(child.total_ns for child in thin), sum(child.count for child in thin)
    return result


def _order(node: Node) -> tuple[int, int]:
    """The longest first, but the layers of a model as they are numbered."""
    return (int(node.name), 0) if node.kind == "module" and node.name.isdecimal() else (0, -node.total_ns)


def icicle(material: Material) -> dict[str, Any] | None:
    """The chart, None where nothing ran."""
    if not material.leaves:
        return None
    whole = tree(material.leaves)
    parts = _THINNEST
    shown = pruned(whole, whole.total_ns // parts)
    while shown.size() > _MOST_NODES and parts > 50:
        parts //= 2
        shown = pruned(whole, whole.total_ns // parts)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("ids", "labels", "parents", "values", "colors", "customdata", "text", "inks")
    }
    _fill(columns, shown, "", whole.total_ns, material)
    trace = {
        "type": "icicle",
        **{name: columns[name] for name in ("ids", "labels", "parents", "values", "customdata", "text")},
        "branchvalues": "total",
        "sort": False,
        "maxdepth": 5,
        "tiling": {"orientation": "v", "pad": 1},
        "pathbar": {"visible": False},
        "leaf": {"opacity": 1},
        "marker": {"colors": columns["colors"], "line": {"width": 0.5, "color": "rgba(255,255,255,0.6)"}},
        "hovertemplate": "<b>%{label}</b><br>%{customdata[1]}, %{customdata[2]} of GPU activity"
        "<br>%{customdata[3]} activities<extra>%{customdata[0]}</extra>",
        "textinfo": "text",
        "textfont": {"color": columns["inks"], "size": 12},
    }
    return {
        "data": [trace],
        "layout": {"height": 520, "margin": {"l": 0, "r": 0, "t": 4, "b": 4}, "uniformtext": _TEXT},
    }


def _fill(columns: dict[str, list[Any]], node: Node, parent: str, whole: int, material: Material) -> None:
    scale = material.scale
    number = f"n{len(columns['ids'])}"
    columns["ids"].append(number)
    columns["labels"].append(label(node.name))
    columns["parents"].append(parent)
    columns["values"].append(node.total_ns)
    wide = node.total_ns > _WIDE * whole
    columns["text"].append(label(node.name) + (f"<br>{duration(node.total_ns / scale.steps)}" if wide else ""))
    columns["inks"].append(ink(node.color))
    columns["colors"].append(node.color)
    said = [node.kind, duration(node.total_ns / scale.steps) + scale.each, percent(node.total_ns, whole)]
    columns["customdata"].append([*said, scale.count(node.count)])
    for child in node.children.values():
        _fill(columns, child, number, whole, material)
