"""The service graph as SVG: callers above what they call, suspects lit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from otel_aiops.labels import visible

WIDE, HIGH, ASIDE, BELOW, MARGIN = 150, 40, 26, 52, 8
LETTERS = 20
MOST = 24  # services that can be told apart in one picture
SWEEPS = 4
NODE = Markup(
    '<a href="/incidents?view=all&amp;service={link}"><g class="{kind}"><title>{title}</title>'
    '<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="7"/>'
    '<text x="{middle}" y="{base}" text-anchor="middle">{name}</text>'
    '<text x="{middle}" y="{under}" text-anchor="middle" class="small">{note}</text></g></a>'
)
EDGE = Markup('<path d="{path}" class="{kind}" marker-end="url(#arrow)"><title>{title}</title></path>')
SVG = Markup(
    '<svg viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" class="graph" role="img" aria-label="{title}">'
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9"'
    ' markerUnits="userSpaceOnUse" orient="auto">'
    '<path d="M0 0L8 4L0 8z" class="head"/></marker></defs>{parts}</svg>'
)

Edge = tuple[str, str]


def graph(found: Mapping[str, Any], suspects: Sequence[str], services: Collection[str]) -> Markup:
    """The services of an incident, its suspects and who is one call away; nothing where no calls are known."""
    calls = {(one["caller"], one["callee"]): one for one in found["edges"] if one["caller"] != one["callee"]}
    wanted = _around(calls, [*suspects, *services])
    edges = [edge for edge in calls if edge[0] in wanted and edge[1] in wanted]
    if not edges:
        return Markup("")
    kinds = {one["name"]: one["kind"] for one in found["nodes"]}
    layers = _ordered(_layers(wanted, edges), edges)
    widest = max(map(len, layers))
    wide = 2 * MARGIN + widest * (WIDE + ASIDE) - ASIDE
    places = {
        name: (MARGIN + (widest - len(layer)) * (WIDE + ASIDE) / 2 + k * (WIDE + ASIDE), MARGIN + n * (HIGH + BELOW))
        for n, layer in enumerate(layers)
        for k, name in enumerate(layer)
    }
    parts = [_edge(calls[edge], places[edge[0]], places[edge[1]]) for edge in edges]
    parts += [_node(name, at, kinds.get(name, "service"), suspects, services) for name, at in places.items()]
    high = 2 * MARGIN + len(layers) * (HIGH + BELOW) - BELOW
    return SVG.format(wide=round(wide), high=high, title="who calls whom, suspects lit", parts=Markup("").join(parts))


def _around(calls: Collection[Edge], named: Sequence[str]) -> list[str]:
    """Those that are named, and then who is one call away, as many as can be shown."""
    known = {name for edge in calls for name in edge}
    core = [name for name in dict.fromkeys(named) if name in known][:MOST]
    near = sorted({one for edge in calls for one in edge if edge[0] in core or edge[1] in core} - set(core))
    return core + near[: MOST - len(core)]


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Callers above callees, by the longest way from who is called by none; calls that close a circle do not count."""
    forward = _forward(names, edges)
    depth = dict.fromkeys(names, 0)
    for _ in names:
        for caller, callee in forward:
            depth[callee] = max(depth[callee], depth[caller] + 1)
    layers: dict[int, list[str]] = defaultdict(list)
    for name, k in depth.items():
        layers[k].append(name)
    return [layers[k] for k in sorted(layers)]


def _forward(names: Sequence[str], edges: Sequence[Edge]) -> list[Edge]:
    """The calls without those that lead back to where a way came from."""
    below = defaultdict(list)
    for caller, callee in edges:
        below[caller].append(callee)
    found: list[Edge] = []
    way, done = list[str](), set[str]()

    def visit(name: str) -> None:
        way.append(name)
        for callee in below[name]:
            if callee not in way:
                found.append((name, callee))
                if callee not in done:
                    visit(callee)
        done.add(way.pop())

    called = {callee for _, callee in edges}
    for name in sorted(names, key=lambda one: one in called):
        if name not in done:
            visit(name)
    return found


def _ordered(layers: list[list[str]], edges: Sequence[Edge]) -> list[list[str]]:
    """Each beside those that it talks to: the mean place of its neighbours, swept down and up (Sugiyama, 1981)."""
    near = defaultdict(list)
    for caller, callee in edges:
        near[caller].append(callee)
        near[callee].append(caller)
    for _ in range(SWEEPS):
        place = {name: k - len(layer) / 2 for layer in layers for k, name in enumerate(layer)}

        def mean(name: str, place: Mapping[str, float] = place) -> float:
            return sum(place[one] for one in near[name]) / len(near[name]) if near[name] else place[name]

        layers = [sorted(layer, key=mean) for layer in layers]
    return layers


def _edge(call: Mapping[str, Any], start: tuple[float, float], end: tuple[float, float]) -> Markup:
    errors = call["error_ratio"] or 0.0
    told = visible(f"{call['caller']} calls {call['callee']}: {call['calls_s'] or 0:.3g} a second, {errors:.1%} fail")
    x, y, x2, y2 = start[0] + WIDE / 2, start[1] + HIGH, end[0] + WIDE / 2, end[1] - 2
    if end[1] <= start[1]:  # up or beside: around the side
        x, y, x2, y2 = start[0] + WIDE, start[1] + HIGH / 2, end[0] + WIDE + 2, end[1] + HIGH / 2
        path = f"M{x:.0f} {y:.0f}C{x + 30:.0f} {y:.0f} {x2 + 30:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    else:
        bend = (y2 - y) / 2
        path = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    return EDGE.format(path=path, kind="edge failing" if errors >= 0.05 else "edge", title=told)


def _node(name: str, at: tuple[float, float], kind: str, suspects: Sequence[str], services: Collection[str]) -> Markup:
    rank = suspects.index(name) + 1 if name in suspects else 0
    state = f"suspect first suspect-{rank}" if rank == 1 else "suspect" if rank else "hit" if name in services else ""
    note = f"suspect {rank}" if rank else "in the incident" if name in services else kind
    seen = visible(name)
    shown = seen if len(seen) <= LETTERS else f"{seen[: LETTERS - 1]}…"
    x, y = at
    return NODE.format(
        link=quote(name, safe=""),
        kind=f"node {state}".strip(),
        title=f"{seen} ({kind})",
        x=round(x),
        y=round(y),
        wide=WIDE,
        high=HIGH,
        middle=round(x + WIDE / 2),
        base=round(y + 17),
        under=round(y + 31),
        name=shown,
        note=note,
    )
