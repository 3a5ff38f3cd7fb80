"""The graph of an ONNX export as a picture, as docs/export.md shows it.

    python tools/draw_export.py [FILE.onnx] [--out docs/images/export_onnx.png]

Without a file, the form `sparse` of a small network of random weights. What depends on the input
stands in one column from top to bottom, what a session computes once when it loads beside it;
constants are named in the nodes that take them, as Netron does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

mpl.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

from zgedge import arena  # noqa: E402
from zgedge.bench.nets import random_zge  # noqa: E402
from zgedge.export import to_onnx  # noqa: E402
from zgedge.export.source import need  # noqa: E402
from zgedge.runtime import Model  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "export_onnx.png"
WIDTH, HEIGHT = 3.1, 0.62  # inches of a node and its gap
COLORS = {True: "#dbe9f6", False: "#f4ead5"}  # at every prediction, once at load


def places(graph: Any) -> dict[str, tuple[int, int]]:
    """Column and row of each node, by its name: column 0 holds what depends on the input."""
    made = {output: node for node in graph.node for output in node.output}
    used: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            if name in made:
                used.setdefault(made[name].name, []).append(node)
    given = {value.name for value in graph.input}
    live: set[str] = set()
    for node in graph.node:
        if any(x in given or (x in made and made[x].name in live) for x in node.input):
            live.add(node.name)
    at: dict[str, tuple[int, int]] = {}
    row = 0
    for node in graph.node:
        if node.name in live:
            # What is computed once stands above the node that takes it.
            row = max(row, *(_depth(made[x], made, live) for x in node.input if x in made), 0)
            at[node.name] = (0, row)
            row += 1
    for node in reversed(graph.node):
        if node.name not in live:
            takers = [at[user.name] for user in used[node.name]]
            column = max(1, *(c for c, _ in takers))
            up = min(r for _, r in takers) - 1
            while (column, up) in at.values():
                column += 1
            at[node.name] = (column, up)
    top = min(r for _, r in at.values())
    return {name: (column, r - top) for name, (column, r) in at.items()}


def _depth(node: Any, made: dict[str, Any], live: set[str]) -> int:
    """Nodes in a row that lead to this one and are computed once."""
    if node.name in live:
        return 0
    return 1 + max((_depth(made[x], made, live) for x in node.input if x in made), default=0)


def draw(data: bytes, out: Path) -> None:
    """Write the picture of an ONNX file's bytes."""
    graph = need("onnx").load_model_from_string(data).graph
    constants = {t.name: "×".join(map(str, t.dims)) for t in graph.initializer}
    at = places(graph)
    made = {output: node.name for node in graph.node for output in node.output}
    columns = 1 + max(c for c, _ in at.values())
    rows = 1 + max(r for _, r in at.values())
    figure, axes = plt.subplots(figsize=(columns * WIDTH + 0.3, (rows + 2) * HEIGHT), dpi=100)
    axes.set_xlim(-0.05, columns)
    axes.set_ylim(rows + 1, -1)
    axes.axis("off")

    def box(x: float, y: float, title: str, text: str, color: str) -> None:
        axes.add_patch(
            plt.Rectangle((x, y + 0.08), 0.9, 0.72, facecolor=color, edgecolor="#555", lw=0.7)
        )
        axes.text(x + 0.45, y + 0.3, title, ha="center", va="center", fontsize=8, weight="bold")
        axes.text(x + 0.45, y + 0.6, text, ha="center", va="center", fontsize=6)

    def arrow(a: tuple[float, float], b: tuple[float, float]) -> None:
        axes.annotate(
            "", xy=b, xytext=a, arrowprops={"arrowstyle": "-|>", "lw": 0.7, "color": "#555"}
        )

    for node in graph.node:
        x, y = at[node.name]
        held = [constants[i] or i for i in node.input if i in constants]
        text = node.name + (f"   <{'>, <'.join(held)}>" if held else "")
        box(x, y, node.op_type, text, COLORS[x == 0])
        for name in node.input:
            if name in made:
                c, r = at[made[name]]
                if c == x:
                    arrow((c + 0.45, r + 0.8), (x + 0.45, y + 0.08))
                else:
                    arrow((c, r + 0.44), (x + 0.9, y + 0.44))
            elif name not in constants:
                arrow((x + 0.45, -0.15), (x + 0.45, y + 0.08))
    for value in graph.input:
        dims = [d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim]
        axes.text(0.45, -0.4, f"{value.name}  {' × '.join(dims)}", ha="center", fontsize=8)
    for value in graph.output:
        x, y = at[made[value.name]]
        arrow((x + 0.45, y + 0.8), (x + 0.45, y + 1.1))
        axes.text(x + 0.45, y + 1.35, value.name, ha="center", fontsize=8)
    figure.savefig(out, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--out", default=PICTURE, type=click.Path(dir_okay=False, path_type=Path))
def main(file: str | None, out: Path) -> None:
    """Draw the graph of an ONNX export."""
    if file is not None:
        data = Path(file).read_bytes()
    else:
        blob = random_zge((784, 96, 10), 64, 4, learning=False)
        data = to_onnx(Model(arena.in_memory(blob), "the picture's network"))
    draw(data, out)
    click.echo(out)


if __name__ == "__main__":
    main()
