"""The report's sections about the file: what it is, its bytes, layers, weights and wires."""

from __future__ import annotations

import os
import shlex

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.arena import Arena
from zgedge.network import Layer, Network, TrunkLayer
from zgedge.report import bytemap, diff, page_facts, page_png
from zgedge.report.page_chart import columns
from zgedge.report.page_facts import History, Measured
from zgedge.report.page_html import (
    Html,
    bar,
    count,
    figure,
    join,
    missing,
    name,
    note,
    percent,
    short,
    table,
    tag,
)  # fmt: skip
from zgedge.runtime import Model

MOST_CELLS = 1280
MAP_COLUMNS = 64
MOST_DOTS = 120_000  # of one heat map
MOST_WIDE = 960  # pixels across
MOST_UNITS = 48
MOST_STRIPS = 40  # classes that have a line of their own
MOST_ROWS = 24  # of a table that could be long


def shape_text(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{height} × {width}" + (f" × {channels}" if channels > 1 else "")


def inputs_text(network: Network) -> str:
    """What a sample is, in words."""
    height, width, _ = network.shape
    if network.task == "picture":
        return f"pictures of {shape_text(network.shape)}"
    if network.task == "series":
        return f"windows of {count(height, 'row')} of {count(width, 'value')}"
    return f"rows of {count(network.inputs, 'value')}"


# ---- head ----


def head(model: Model, measured: Measured | None) -> Html:
    arena, network = model.arena, model.arena.network
    size = len(arena.buffer)
    lead = [
        "A network for ", tag("b", inputs_text(network)), " in ",
        tag("b", count(network.classes, "class", "classes")), ". Its file of ",
        tag("b", f"{size:,} bytes"), " is all the memory it has",
    ]  # fmt: skip
    lead.append(", and it goes on learning in it." if network.learning else "; it only predicts.")
    return join([
        tag("p", "zgedge report", class_="kicker"),
        tag("h1", name(os.path.basename(model.name), 200)),
        tag("p", *lead, class_="lead"),
        tag("dl", *_cards(arena, measured), class_="cards"),
    ])  # fmt: skip


def _cards(arena: Arena, measured: Measured | None) -> list[Html]:
    network, size = arena.network, len(arena.buffer)
    learner = arena.learner()

    def card(term: str, value: object, sub: object = "") -> Html:
        return tag(
            "div", tag("dt", term), tag("dd", value, class_="big"), tag("dd", sub, class_="sub")
        )

    budget = "no budget stored"
    if arena.budget:
        budget = f"{percent(size / arena.budget)} of a budget of {arena.budget:,}"
    cards = [card("Bytes", f"{size:,}", budget)]
    if measured is not None:
        sub = f"{measured.interval}, {len(measured.labels):,} rows"
        cards.append(card("Accuracy, measured now", percent(measured.accuracy, 2), sub))
    elif arena.accuracy is not None:
        cards.append(
            card("Accuracy, when trained", percent(arena.accuracy, 2), "on its test rows then")
        )
    else:
        cards.append(card("Accuracy", "not known", "no data given, and none stored"))
    kinds = "of " + {"picture": "pictures", "series": "windows", "table": "rows"}[network.task]
    if arena.unknown:
        kinds = f"and unknown, below a score of {percent(arena.unknown / page_facts.ONE)}"
    cards.append(card("Classes", f"{network.classes:,}", kinds))
    cards.append(
        card(
            "Bytes to predict", f"{network.inference_bytes:,}", "the same network without learning"
        )
    )
    cards.append(card("Multiply-adds", f"{network.operations:,}", "for one prediction"))
    if learner is None:
        cards.append(card("Learning", "no", "written to predict only"))
    else:
        did = f"{learner['samples']:,} samples so far, {learner['rewired']:,} connections rewired"
        cards.append(card("Learning", "yes", f"{did} ({learner['strategy']})"))
    return cards


# ---- bytes ----


def byte_map(arena: Arena) -> Html:
    network = arena.network
    parts = bytemap.parts(network, arena.budget)
    total = sum(part.bytes for part in parts)
    cell = 1
    while total > cell * MOST_CELLS:
        cell *= 2
    group_class = {part.name: _part_class(part.name) for part in parts}
    rows = []
    for group in (bytemap.PREDICT, bytemap.LEARN, bytemap.UNUSED):
        members = [part for part in parts if part.group == group]
        size = sum(part.bytes for part in members)
        if not members:
            continue
        rows.append(_row("group", group, "", f"{size:,}", percent(size / total)))
        if group == bytemap.UNUSED:
            continue
        for part in members:
            swatch = tag("span", class_=f"sw {group_class[part.name]}", aria_hidden="true")
            rows.append(
                _row(None, join([swatch, part.name]), part.purpose, f"{part.bytes:,}",
                     percent(part.bytes / total))
            )  # fmt: skip
    heads = ("part", "what it is for", "bytes", "share")
    kinds = (None, "purpose", "num", "num")
    listing = tag(
        "table",
        tag("caption", "Every byte of the ",
            "budget" if arena.budget > network.file_bytes else "file"),
        tag("thead", tag("tr", *(tag("th", h, scope="col", class_=k)
                                 for h, k in zip(heads, kinds, strict=True)))),
        tag("tbody", *rows),
    )  # fmt: skip
    return join([
        tag("h2", "What every byte is for"),
        note(
            f"{total:,} bytes in the order in which they stand in the file; a square is ",
            count(cell, "byte"), ". Blues are needed to predict, warm colours to learn",
            ", grey is left of the budget." if arena.budget > network.file_bytes else ".",
        ),
        _waffle(parts, cell, total),
        tag("div", listing, class_="scroll", tabindex=0, role="region",
            aria_label="Every byte of the file"),
    ])  # fmt: skip


def _part_class(part: str) -> str:
    known = (
        "weights", "indices", "rows", "activations", "residual", "scratch", "replay", "learner",
        "anchors", "snapshot", "unused",
    )  # fmt: skip
    return f"p-{part}" if part in known else "p-small"


def _row(class_: str | None, first: object, purpose: str, size: str, share: str) -> Html:
    return tag(
        "tr", tag("th", first, scope="row"), tag("td", purpose, class_="purpose"),
        tag("td", size, class_="num"), tag("td", share, class_="num"), class_=class_,
    )  # fmt: skip


def _waffle(parts: list[bytemap.Part], cell: int, total: int) -> Html:
    """A square for every `cell` bytes, in file order, 64 to a line."""
    ends = np.cumsum([part.bytes for part in parts])
    cells = -(-total // cell)
    middles = np.minimum(np.arange(cells) * cell + cell // 2, total - 1)
    owner = np.searchsorted(ends, middles, side="right")
    marks = []
    for i, part in enumerate(parts):
        mine = np.flatnonzero(owner == i).tolist()
        if not mine:
            continue
        path = "".join(f"M{n % MAP_COLUMNS * 10} {n // MAP_COLUMNS * 10}h9v9h-9z" for n in mine)
        said = f"{part.name}: {part.bytes:,} bytes, {percent(part.bytes / total)}; {part.purpose}"
        marks.append(tag("path", tag("title", said), d=path, class_=_part_class(part.name)))
    lines = -(-cells // MAP_COLUMNS)
    alt = "Map of the bytes: " + ", ".join(
        f"{p.name} {percent(p.bytes / total)}" for p in parts if p.bytes
    )
    box = f"0 0 {10 * MAP_COLUMNS - 1} {10 * lines - 1}"
    return tag("svg", *marks, viewBox=box, role="img", aria_label=alt, class_="map")


# ---- layers ----


def layers(network: Network) -> Html:
    """The chain of layers, and how much of each dense layer is left out."""
    steps = [_step("input", shape_text(network.shape), count(network.inputs, "value"), "")]
    rows = []
    for i, trunk in enumerate(network.trunk):
        steps.append(_step(trunk.kind, shape_text(trunk.out_shape), _window(trunk), "trunk"))
        size = trunk.weights + 8 * trunk.rows
        rows.append([
            f"{i + 1} {trunk.kind}",
            f"{shape_text(trunk.shape)} → {shape_text(trunk.out_shape)}", _window(trunk),
            f"{trunk.weights:,}", f"{size:,}", f"{trunk.operations:,}",
            "shared taps" if trunk.has_weights else "no weights",
        ])  # fmt: skip
    for i, layer in enumerate(network.layers):
        last = i + 1 == len(network.layers)
        out = f"{layer.outputs:,} {'classes' if last else 'units'}"
        steps.append(_step(layer.kind, out, _fan_in(layer), layer.kind))
        missing_share = 1 - layer.density
        rows.append([
            f"{len(network.trunk) + i + 1} {layer.kind}",
            f"{layer.inputs:,} → {layer.outputs:,}", _fan_in(layer), f"{layer.weights:,}",
            f"{layer.inference_bytes:,}", f"{layer.weights:,}",
            join([percent(missing_share), bar(missing_share)]),
        ])  # fmt: skip
    heads = ("layer", "shape", "looks at", "weights", "bytes", "multiply-adds", "sparsity")
    said = "Sparsity is the share of a dense layer's connections that is left out."
    if network.trunk:
        said += " The taps of a picture layer are the same at every place; these layers stay frozen"
        said += " on a device."
    return join([
        tag("h2", "Layers and sparsity"),
        note(said),
        tag("ol", *steps, class_="flow"),
        table("From input to answer", heads, rows, right=(3, 4, 5), class_="layers"),
    ])  # fmt: skip


def _step(kind: str, out: str, detail: str, class_: str) -> Html:
    return tag(
        "li", tag("div", tag("b", out), tag("span", f"{kind}, {detail}"), class_=class_ or None)
    )


def _window(layer: TrunkLayer) -> str:
    if layer.kind == net.MEAN_POOL:
        return "the whole picture"
    text = f"{layer.kernel} × {layer.kernel}"
    if layer.stride > 1:
        text += f", stride {layer.stride}"
    if layer.add is not None:
        text += f", plus the input of layer {layer.add + 1}"
    return text


def _fan_in(layer: Layer) -> str:
    if layer.kind == net.DENSE:
        return f"all {layer.inputs:,}"
    text = f"{layer.width:,} of {layer.inputs:,}"
    return text + (f" in blocks of {layer.block}" if layer.block > 1 else "")


# ---- wires ----

# What a map is of, and a number for each input.
Panels = list[tuple[str, npt.NDArray[np.int64]]]


def wires(model: Model, older: Model | None, history: History | None) -> Html:
    """Which inputs, or features of the trunk, the first layer behind it looks at."""
    arena = model.arena
    network = arena.network
    layer = network.layers[0]
    what = "features of the trunk" if network.trunk else {
        "picture": "pixels", "series": "values of a window", "table": "inputs"
    }[network.task]  # fmt: skip
    title = tag("h2", f"Which {what} the wires look at")
    if layer.kind == net.DENSE:
        values = page_facts.strength(arena)
        said = note(
            f"The first layer {'behind the trunk ' if network.trunk else ''}is dense: each of its ",
            count(layer.outputs, "unit"), f" looks at all {layer.inputs:,} {what}, and no wire of "
            "it can move. Shown is how much weight lies on each: the sum of its weights without "
            "their signs, in 8-bit steps.",
        )  # fmt: skip
        return join([title, said, _maps(arena, [("this file", values)], "weight")])
    now = page_facts.wires(arena)
    panels: Panels = []
    if history is not None and "start" in history.wires:
        panels.append(("start of training", history.wires["start"]))
    before = None if older is None else page_facts.wires(older.arena)
    if history is not None and "end" in history.wires:
        end = history.wires["end"]
        if not any(np.array_equal(end, x) for x in (now, before) if x is not None):
            panels.append(("end of training", end))
    if older is not None and before is not None:
        panels.append((short(os.path.basename(older.name)), before))
    panels.append(("this file", now))
    said = note(
        f"Each of the {layer.outputs:,} units of the first sparse layer looks at "
        f"{layer.width:,} of {layer.inputs:,} {what}. Counted is how many units look at each.",
    )
    since = 0 if older is None else len(panels) - 2
    out = [title, said, _maps(arena, panels, "wires", since)]
    if len(panels) == 1:
        out.append(
            missing(
                "To see where they were before, give the log of the training, or an older file:",
                f"zgedge report {shlex.quote(model.name)} --log TRAIN_LOG --before OLDER.zge",
            )
        )
    if older is not None:
        out.append(_changes(older, model))
    return join(out)


def _changes(older: Model, model: Model) -> Html:
    found = diff.compare_layers(older.arena, model.arena)
    before = name(os.path.basename(older.name))
    if not found:
        return note("The layers of ", before, " are others, so single connections cannot be "
                    "compared.")  # fmt: skip
    rows = [
        (f"{c.layer} sparse", f"{c.kept:,}",
         f"{c.dropped:,}", f"{c.grown:,}",
         join([percent(c.grown / (c.kept + c.grown)), bar(c.grown / (c.kept + c.grown))]))
        for c in found
        if c.kind == net.SPARSE
    ]  # fmt: skip
    return table(
        join(["Connections since ", before]),
        ("layer", "kept", "dropped", "grown", "moved"), rows, right=(1, 2, 3),
    )  # fmt: skip


def _maps(arena: Arena, panels: Panels, unit: str, since: int = 0) -> Html:
    """Maps of all panels, and of the change from panel `since` to the last."""
    network = arena.network
    if network.task == "table" and not network.trunk:
        return _table_wires(arena, [panels[since], panels[-1]][-len(panels) :], unit)
    height, width, channels = page_facts.features_shape(network)
    out = []
    if height * width > 1:
        grids = [(text, _place(arena, values)) for text, values in panels]
        out.append(_place_maps(grids, unit, since))
        if network.task == "series" and not network.trunk:
            out.append(note("Time runs from left to right, a line for each value of a row."))
    if channels > 1 and network.trunk:
        sums = [values.reshape(-1, channels).sum(axis=0).tolist() for _, values in panels]
        first = sums[since] if len(panels) > 1 else None
        out.append(tag("h3", "By channel of the trunk"))
        out.append(
            figure(
                columns(
                    sums[-1], f"{unit} on each of {channels} channels", "channel", unit,
                    [f"channel {i}" for i in range(channels)], first, panels[since][0],
                ),
                join([panels[-1][0], f"; the line: {panels[since][0]}" if first else ""]),
            )
        )  # fmt: skip
    return join(out)


def _place(arena: Arena, values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[height, width] of a map of inputs: channels added up, a series with time to the right."""
    network = arena.network
    grid: npt.NDArray[np.float64] = (
        values.reshape(page_facts.features_shape(network)).sum(axis=2).astype(np.float64)
    )
    return grid.T if network.task == "series" and not network.trunk else grid


Grids = list[tuple[str, npt.NDArray[np.float64]]]


def _place_maps(grids: Grids, unit: str, since: int) -> Html:
    # One scale for all, so that before and after can be compared.
    most = max(float(grid.max()) for _, grid in grids)
    figures = []
    for text, grid in grids:
        caption = join([tag("b", text), f": {int(grid.min()):,} to {int(grid.max()):,}"])
        figures.append(figure(_heat(grid / max(1.0, most), f"{unit}, {text}"), caption))
    key = tag("p", "0", tag("i"), f"{int(most):,} {unit}", class_="legend up")
    if len(grids) == 1:
        return join([tag("div", *figures, class_="maps"), key])
    moved = grids[-1][1] - grids[since][1]
    largest = max(1.0, float(np.abs(moved).max()))
    span = f"{int(moved.min()):+,} to {int(moved.max()):+,}"
    caption = join([tag("b", "change"), f" since {grids[since][0]}: {span}"])
    figures.append(figure(_heat(moved / largest, f"change of {unit}"), caption))
    change = tag("p", f"{int(-largest):,}", tag("i"), f"{int(largest):+,} (change)",
                 class_="legend both")  # fmt: skip
    return join([tag("div", *figures, class_="maps"), key, change])


def _heat(values: npt.NDArray[np.floating], alt: str) -> Html:
    """A heat map of values in -1..1, small ones scaled up in whole steps."""
    small, box = page_png.shrink(values, 300, 600)
    if box != (1, 1):
        alt += f"; a dot stands for {box[0]} × {box[1]}"
    height, width = small.shape
    return tag("img", src=page_png.heat(small), alt=alt, width=width, height=height, class_="heat")


def _table_wires(arena: Arena, panels: Panels, unit: str) -> Html:
    names = page_facts.row_names(arena)
    first, now = panels[0], panels[-1]
    order = np.argsort(-now[1], kind="stable")[:MOST_ROWS].tolist()
    most = max(1, int(now[1].max()))
    heads: list[object] = ["input"]
    if len(panels) > 1:
        heads.append(first[0])
    heads += [now[0], ""]
    rows = []
    for i in order:
        row: list[object] = [name(names[i])]
        if len(panels) > 1:
            row.append(f"{int(first[1][i]):,}")
        rows.append([*row, f"{int(now[1][i]):,}", bar(int(now[1][i]) / most)])
    caption = unit.capitalize() + " on each input"
    if len(order) < len(names):
        caption += f": the {len(order)} inputs with the most, of {len(names):,}"
    listing = table(caption, heads, rows, right=tuple(range(1, len(heads) - 1)))
    if len(names) <= MOST_ROWS:
        return listing
    chart = columns(
        _thin(now[1]), f"{unit} on each of {len(names)} inputs",
        "input, in the order of the columns", unit, _thin_names(names),
        _thin(first[1]) if len(panels) > 1 else None, first[0],
    )  # fmt: skip
    caption = now[0] + (f"; the line: {first[0]}" if len(panels) > 1 else "")
    return join([figure(chart, caption), listing])


_COLUMNS = 250


def _thin(values: npt.NDArray[np.int64]) -> list[float]:
    """At most 250 columns: the means of neighbours."""
    parts = np.array_split(values, min(_COLUMNS, len(values)))
    return [round(float(part.mean()), 2) for part in parts]


def _thin_names(names: object) -> list[str]:
    texts = list(names)  # type: ignore[call-overload]
    ends = np.array_split(np.arange(len(texts)), min(_COLUMNS, len(texts)))
    return [
        short(texts[part[0]]) if len(part) == 1
        else f"{short(texts[part[0]], 20)} to {short(texts[part[-1]], 20)}, mean"
        for part in ends
    ]  # fmt: skip


# ---- weights ----


def weights(arena: Arena) -> Html:
    """Heat maps: taps of the trunk, what single units look for, all layers, the head by class."""
    network = arena.network
    out = [
        tag("h2", "Weights"),
        note("Blue is for a weight above 0, orange for one below; the more colour, the larger. "
             "Where the page shows through there is no connection, or a weight of 0."),
        tag("p", "-127", tag("i"), "+127", class_="legend root"),
    ]  # fmt: skip
    for i, trunk in enumerate(network.trunk):
        if trunk.has_weights:
            out.append(tag("h3", f"Layer {i + 1}: {trunk.kind}, {_window(trunk)}"))
            out.append(_taps(arena, i, trunk))
    if not network.trunk and network.task != "table":
        out += [tag("h3", "What single units look for"), _units(arena)]
    for i, layer in enumerate(network.layers):
        number = len(network.trunk) + i + 1
        last = i + 1 == len(network.layers)
        title = f"Layer {number}: {layer.kind}{', the head' if last else ''}"
        out.append(tag("h3", title))
        by_class = last and layer.kind == net.DENSE and layer.outputs <= MOST_STRIPS
        out.append(_head(arena, i) if by_class else _matrix(arena, i))
    return join(out)


def _taps(arena: Arena, i: int, layer: TrunkLayer) -> Html:
    taps = arena.trunk_weights(i)
    assert taps is not None, "a pool has no taps"
    values: npt.NDArray[np.floating] = taps.astype(np.float32) / 127
    said = "Each output channel has a scale of its own."
    incoming = layer.shape[2]
    if layer.kind == net.DEPTHWISE:
        tiles = values.transpose(2, 0, 1)
        text = f"The {count(len(tiles), 'kernel')}, one for each channel."
    elif incoming == 3 and i == 0:
        return _colour_taps(values, said)
    elif incoming == 1:
        tiles = values[:, :, :, 0]
        text = f"The {count(len(tiles), 'kernel')}, one for each output channel. {said}"
    elif layer.kernel == 1:
        whole, out = values[:, 0, 0, :], f"{layer.channels} output channels"
        if layer.channels > incoming:
            text = f"A column for each of {out}, a line for each of {incoming} incoming ones."
            return _dots(whole.T, f"{text} {said}")
        text = f"A line for each of {out}, a column for each of {incoming} incoming ones."
        return _dots(whole, f"{text} {said}")
    else:
        tiles = values.transpose(0, 3, 1, 2).reshape(-1, layer.kernel, layer.kernel)
        text = f"A line of kernels for each of {layer.channels} output channels, a column for each "
        whole = page_png.montage(tiles, incoming)
        return _dots(whole, f"{text}of {incoming} incoming ones. {said}")
    return join([_tiles(list(tiles), 42), note(text)])


def _colour_taps(values: npt.NDArray[np.floating], said: str) -> Html:
    grey = np.rint((values + 1) * 127.5).astype(np.uint8)
    uris = [page_png.picture(tile) for tile in grey]
    text = f"The {count(len(uris), 'kernel')} as colours: grey is 0, a channel above it brighter, "
    return join(
        [_images(uris, values.shape[2], values.shape[1], 42), note(f"{text}below darker. {said}")]
    )


def _tiles(tiles: list[npt.NDArray[np.floating]], size: int) -> Html:
    uris = [page_png.heat(page_png.root(tile)) for tile in tiles]
    height, width = tiles[0].shape
    return _images(uris, width, height, size)


def _images(uris: list[str], width: int, height: int, size: int) -> Html:
    """Small pictures of one size, scaled up in whole steps to about `size`."""
    step = max(1, round(size / max(width, height)))
    pictures = [
        tag("img", src=uri, alt="", width=step * width, height=step * height, class_="heat")
        for uri in uris
    ]
    label = f"{len(uris)} small heat maps of weights"
    return tag("div", *pictures, class_="tiles", role="img", aria_label=label)


def _box(height: int, width: int) -> tuple[int, int]:
    """Weights down and across that a dot of a heat map stands for."""
    across = -(-width // MOST_WIDE)
    return -(-height // (MOST_DOTS // min(width, MOST_WIDE))), across


def _dots(whole: npt.NDArray[np.floating], text: str) -> Html:
    """A heat map of a whole array; where it is too large a dot stands for more."""
    box = _box(*whole.shape)
    rows, columns = (-(-n // m) for n, m in zip(whole.shape, box, strict=True))
    return _heat_map(page_png.shrink(whole, rows, columns)[0], box, text)


def _heat_map(small: npt.NDArray[np.floating], box: tuple[int, int], text: str) -> Html:
    if box != (1, 1):
        text += f" A dot stands for {box[0]} × {box[1]} of them and shows the largest."
    height, width = small.shape
    step = max(1, min(8, MOST_WIDE // width, 480 // height))
    image = tag(
        "img", src=page_png.heat(page_png.root(small)), alt=f"Heat map of {height} × {width} dots",
        width=step * width, height=step * height, class_="heat",
    )  # fmt: skip
    return figure(image, text, class_="wide")


def _units(arena: Arena) -> Html:
    """Weights of single units of the first layer, laid out as the sample is."""
    network = arena.network
    total = np.abs(arena.weights(0).astype(np.int64)).sum(axis=1)
    chosen = np.sort(np.argsort(-total, kind="stable")[:MOST_UNITS])
    whole = page_facts.rows_of_weights(arena, 0, chosen) / 127
    tiles: npt.NDArray[np.floating] = whole.reshape(len(chosen), *network.shape)
    if network.shape[2] > 1:
        tiles = np.nan_to_num(tiles)
        at = np.abs(tiles).argmax(axis=3)
        tiles = np.take_along_axis(tiles, at[..., None], 3)
    grids: npt.NDArray[np.floating] = tiles[..., 0]
    if network.task == "series":
        grids = np.swapaxes(grids, 1, 2)
    shown = np.stack([page_png.shrink(grid, 64, 96)[0] for grid in grids])
    said = f"{count(len(chosen), 'unit')} of the first layer, laid out as the samples are"
    if len(chosen) < len(total):
        said += f": those of {len(total):,} whose weights are the largest"
    if network.shape[2] > 1:
        said += "; of the channels of a pixel the largest weight is shown"
    return join([_tiles(list(shown), 64), note(f"{said}.")])


def _matrix(arena: Arena, i: int) -> Html:
    layer = arena.network.layers[i]
    units, inputs = f"{layer.outputs:,} units", f"{layer.inputs:,} inputs"
    if layer.outputs > layer.inputs:  # lying down it takes less of the page
        down, across = _box(layer.inputs, layer.outputs)
        small = page_facts.small_weights(arena, i, (across, down)).T / 127
        text = f"A column for each of {units}, a line for each of {inputs}."
    else:
        down, across = _box(layer.outputs, layer.inputs)
        small = page_facts.small_weights(arena, i, (down, across)) / 127
        text = f"A line for each of {units}, a column for each of {inputs}."
    return _heat_map(small, (down, across), text)


def _head(arena: Arena, i: int) -> Html:
    """A strip of weights for each class."""
    whole = arena.weights(i).astype(np.float32) / 127
    # Units in the order of the class that they speak for, so that the strips can be read.
    order = np.lexsort((-whole.max(axis=0), whole.argmax(axis=0)))
    small, box = page_png.shrink(whole[:, order], len(whole), 760)
    rows = []
    for class_name, line in zip(arena.class_names, small, strict=True):
        image = tag(
            "img", src=page_png.heat(page_png.root(line[None])), alt="", width=len(line), height=1
        )
        rows.append(
            tag(
                "tr", tag("th", name(class_name, 24), scope="row"), tag("td", image, class_="strip")
            )
        )
    said = f"A line for each class, a column for each of {whole.shape[1]:,} units; units stand in "
    said += "the order of the class that they speak for most."
    if box[1] > 1:
        said += f" A column stands for {box[1]} units and shows the largest weight."
    whole_table = tag("table", tag("caption", said), tag("tbody", *rows), class_="matrix")
    return tag("div", whole_table, class_="scroll", tabindex=0, role="region",
               aria_label="Weights of the head, by class")  # fmt: skip
