"""The overview of an exploration tree: actions from left to right, one line per branch, coloured by Q."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from qlass.report.svg import line, number, path, picture, tag, text
from qlass.report.trees import NodeView, Segment

_ROW, _LEFT, _TOP = 19, 46, 34
_RADIUS = 5.2
_ROOM, _NARROW, _WIDE = 1000, 18, 30
"""The columns share this room (pixels), but are never narrower or wider than can be followed by eye."""


def tree_picture(segments: Sequence[Segment], anchor: str, label: str) -> Markup:
    """Draw the whole tree; every node links to its row in the unfolded tree (`#<anchor>-<node id>`).

    A segment keeps the line of its first fork, so the trunk is straight and forks leave it downwards.
    """
    deepest = max(_deepest(segment) for segment in segments)
    drawing = _Drawing(anchor, step=min(max(_ROOM / deepest, _NARROW), _WIDE))
    rows = 0
    for segment in segments:
        drawing.edge(0, 0, 1, rows, segment.views[0].best)
        rows += drawing.draw(segment, rows)
    width, height = drawing.x(deepest) + 28, _TOP + _ROW * rows
    # The best path is drawn last, so that no other line crosses over it.
    layers = [_ruler(drawing, deepest, height), *drawing.edges, *drawing.best, _root(drawing), *drawing.nodes]
    return picture(width, height, label, *layers, class_="chart tree")


@dataclass(slots=True)
class _Drawing:
    """What is drawn so far, in data coordinates: depth to the right, row downwards."""

    anchor: str
    step: float
    edges: list[Markup] = field(default_factory=list)
    best: list[Markup] = field(default_factory=list)
    nodes: list[Markup] = field(default_factory=list)

    def x(self, depth: int) -> float:
        """Return the column of a depth; the root has depth 0."""
        return _LEFT + self.step * (depth - 1)

    def draw(self, segment: Segment, row: int) -> int:
        """Draw a segment on a line and its forks on the lines from there; return how many lines they take."""
        for before, after in zip(segment.views, segment.views[1:], strict=False):
            self.edge(before.node.depth, row, after.node.depth, row, after.best)
        self.nodes.extend(_node(view, self.x(view.node.depth), _y(row), self.anchor) for view in segment.views)
        end, used = segment.views[-1].node.depth, 0
        for fork in segment.forks:
            self.edge(end, row, end + 1, row + used, fork.views[0].best)
            used += self.draw(fork, row + used)
        return max(used, 1)

    def edge(self, depth: int, row: int, to_depth: int, to_row: int, best: bool) -> None:
        """Draw one action: straight on the same line, else down beside the parent and then across."""
        x1, y1, x2, y2 = self.x(depth), _y(row), self.x(to_depth), _y(to_row)
        bend = 9.0 if to_row > row else 0.0
        steps = f"M{number(x1)} {number(y1)} V{number(y2 - bend)} "
        steps += f"Q{number(x1)} {number(y2)} {number(x1 + bend)} {number(y2)} H{number(x2)}"
        (self.best if best else self.edges).append(tag("path", d=steps, class_="edge best" if best else "edge"))


def _y(row: int) -> float:
    """Return the height of a line."""
    return _TOP + _ROW * row


def _root(drawing: _Drawing) -> Markup:
    """Draw the task itself."""
    tip = tag("title", "the task, before any action")
    return tag("circle", tip, cx=drawing.x(0), cy=_TOP, r=6, class_="root")


def _ruler(drawing: _Drawing, deepest: int, height: float) -> Markup:
    """Number the actions along the top."""
    marks = [depth for depth in range(1, deepest + 1) if depth == 1 or depth % 5 == 0]
    parts = [line(drawing.x(depth), _TOP - 14, drawing.x(depth), height - 6, "grid") for depth in marks]
    parts += [text(drawing.x(depth), 13, f"action {depth}" if depth == 1 else str(depth)) for depth in marks]
    return Markup("").join(parts)


def _node(view: NodeView, x: float, y: float, anchor: str) -> Markup:
    """Draw one executed action, and at a leaf a tick or a cross for its outcome."""
    node = view.node
    q = "" if view.q is None else f"\nq {view.q:.3f}, normalised {view.q_norm:.3f}"
    ending = f"\noutcome {node.step.reward:g}" if view.leaf else ""
    tip = tag("title", f"{node.depth}. {node.step.action} ({node.origin}){q}{ending}")
    dot = tag("circle", tip, cx=x, cy=y, r=_RADIUS, fill=view.colour, class_="node")
    # Thousands of stops on the way through the page would make the tab key useless; the rows below are reachable.
    return tag("a", dot, _outcome(view, x + 13, y), href=f"#{anchor}-{node.node_id}", tabindex=-1)


def _outcome(view: NodeView, x: float, y: float) -> Markup:
    """Draw the end of a branch."""
    if not view.leaf:
        return Markup("")
    if view.node.step.reward > 0:
        return path([(x - 4, y), (x - 1, y + 4), (x + 5, y - 5)], "tickmark")
    strokes = ([(x - 3, y - 3), (x + 3, y + 3)], [(x - 3, y + 3), (x + 3, y - 3)])
    return Markup("").join(path(stroke, "crossmark") for stroke in strokes)


def _deepest(segment: Segment) -> int:
    """Return the depth of the deepest node."""
    return max([segment.views[-1].node.depth, *(_deepest(fork) for fork in segment.forks)])
