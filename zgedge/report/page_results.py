"""The report's sections about answers and training: accuracy, confusions, mistakes, curves."""

from __future__ import annotations

import os
import shlex

import numpy as np
import numpy.typing as npt

from zgedge.arena import Arena
from zgedge.report import page_facts, page_png
from zgedge.report.page_chart import HEIGHT, Axis, Plot, axis, plain
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
    shorter,
    table,
    tag,
)  # fmt: skip
from zgedge.report.pictures import measured_on
from zgedge.runtime import Model

MOST_IN_MATRIX = 20  # classes that a matrix of numbers can show
MOST_IN_PICTURE = 200  # and one without numbers
MOST_ROWS = 20
MOST_MISTAKES = 24
MOST_COLUMNS = 8  # values of a row of a table
MOST_LINES = 4  # curves in a window's picture
THUMBNAIL = 72


# ---- accuracy ----


def accuracy(model: Model, measured: Measured | None) -> Html:
    title = tag("h2", "Accuracy and confusions")
    if measured is None:
        stored = model.arena.accuracy
        known = "" if stored is None else f"When it was trained it was {percent(stored, 2)}. "
        return join(
            [
                title,
                _without_data(
                    model,
                    f"{known}To measure it, and see which classes "
                    "are taken for which, give labelled data:",
                ),
            ]
        )
    n = len(measured.labels)
    right = int((measured.found == measured.labels).sum())
    said = [
        tag("b", percent(measured.accuracy, 2)), f" of {n:,} rows of ", name(measured.name),
        f" are right: {right:,}; {count(len(measured.mistaken), 'row')} got a wrong class",
    ]  # fmt: skip
    if model.arena.unknown:
        said.append(f", {measured.unknown:,} the answer unknown, which counts as wrong")
    out = [title, tag("p", *said, ".")]
    pairs = _confusions(model.arena, measured)
    if measured.classes <= MOST_IN_MATRIX:
        out.append(tag("div", _matrix(model.arena, measured), pairs, class_="pair"))
    elif measured.classes <= MOST_IN_PICTURE:
        out += [_matrix_picture(measured), pairs]
    else:
        out.append(pairs)
    out.append(_per_class(model.arena, measured))
    out += [tag("h3", "How sure it is"), _scores(model.arena, measured)]
    return join(out)


def _without_data(model: Model, text: str) -> Html:
    return missing(text, f"zgedge report {shlex.quote(model.name)} --data DATA")


def _matrix(arena: Arena, measured: Measured) -> Html:
    """A table of numbers: true class down, answer across."""
    found = measured.confusion()
    samples = measured.samples()
    unknown = bool(arena.unknown)
    answers = [name(text, 12) for text in arena.class_names] + (["unknown"] if unknown else [])
    head = tag("tr", tag("td"), *(tag("th", text, scope="col") for text in answers))
    rows = []
    for i, text in enumerate(arena.class_names):
        cells = []
        for j in range(len(answers)):
            n = int(found[i, j])
            share = n / max(1, int(samples[i]))
            kind = ("right" if i == j else "wrong") if n else None
            style = f"--v:{share:.3f}" if n else None
            cells.append(tag("td", f"{n:,}" if n else "", class_=kind, style=style))
        rows.append(tag("tr", tag("th", name(text, 24), scope="row"), *cells))
    caption = tag(
        "caption", "Rows by true class (down) and answer (across). Colour is the share of the true "
        "class: blue on the diagonal is right, orange is wrong.",
    )  # fmt: skip
    longest = max(len(text) for text in (*arena.class_names, "unknown" if unknown else ""))
    kind = "matrix upright" if longest > 3 else "matrix"  # columns stay as narrow as their numbers
    whole = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_=kind)
    return tag("div", whole, class_="scroll", tabindex=0, role="region",
               aria_label="Confusion matrix")  # fmt: skip


def _matrix_picture(measured: Measured) -> Html:
    share = measured.confusion() / np.maximum(1, measured.samples())[:, None]
    signed = -share
    diagonal = np.arange(measured.classes)
    signed[diagonal, diagonal] *= -1
    step = max(1, 600 // measured.classes)
    image = tag(
        "img", src=page_png.heat(signed), width=step * signed.shape[1], class_="heat",
        height=step * measured.classes, alt=f"Confusion matrix of {measured.classes} classes",
    )  # fmt: skip
    text = "A line for each true class, a column for each answer, unknown last. Blue on the "
    return figure(image, text + "diagonal is right, orange is wrong; the more colour, the larger "
                  "the share of the true class.", class_="wide")  # fmt: skip


def _confusions(arena: Arena, measured: Measured) -> Html:
    pairs = measured.confusions(MOST_ROWS)
    if not pairs:
        return note("No class was taken for another.")
    samples, names = measured.samples(), arena.class_names
    rows = [
        (join([name(names[true]), " taken for ", name(names[answer])]), f"{n:,}",
         join([f"{percent(n / int(samples[true]))} of ", name(names[true], 24)]))
        for true, answer, n in pairs[: 10 if measured.classes <= MOST_IN_MATRIX else MOST_ROWS]
    ]  # fmt: skip
    return table("The most frequent confusions", ("which", "rows", "share"), rows, right=(1,))


def _per_class(arena: Arena, measured: Measured) -> Html:
    samples, right = measured.samples(), measured.right()
    share = right / np.maximum(1, samples)
    shown = np.flatnonzero(samples)
    caption = "Right answers by class"
    if len(shown) > MOST_ROWS:
        shown = shown[np.argsort(share[shown], kind="stable")[:MOST_ROWS]]
        caption = f"The {MOST_ROWS} classes with the smallest share of right answers"
    absent = int((samples == 0).sum())
    if absent:
        caption += f"; {count(absent, 'class has', 'classes have')} no row in these data"
    rows = [
        (name(arena.class_names[i]), f"{samples[i]:,}", f"{right[i]:,}", percent(share[i]),
         bar(float(share[i])))
        for i in shown.tolist()
    ]  # fmt: skip
    return table(caption, ("class", "rows", "right", "share", ""), rows, right=(1, 2, 3))


def _scores(arena: Arena, measured: Measured) -> Html:
    """Histograms of the score, of right answers and of wrong ones, each with its own scale."""
    good = measured.found == measured.labels
    wrong = (~good) & (measured.found >= 0)
    parts = [("right answers", measured.scores[good], "blue"),
             ("wrong answers", measured.scores[wrong], "orange")]  # fmt: skip
    edges = np.linspace(0, 1, 21)
    across = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), lambda v: f"{100 * v:.0f} %")
    charts = []
    for text, values, kind in parts:
        counts, _ = np.histogram(values, edges)
        plot = Plot(across, axis([0, int(counts.max(initial=0))], whole=True), 170)
        for i, n in enumerate(counts.tolist()):
            if n:
                said = f"{100 * edges[i]:.0f} to {100 * edges[i + 1]:.0f} %: {n:,} {text}"
                plot.bar(float(edges[i]), float(edges[i + 1]), 0, n, kind, said)
        if arena.unknown:
            plot.upright(arena.unknown / page_facts.ONE, "unknown below")
        alt = f"Histogram of the score of {len(values):,} {text}"
        charts.append(figure(plot.draw(alt, "score of the answer", f"{text}, rows")))
    return tag("div", *charts, class_="grid")


# ---- mistakes ----


def mistakes(model: Model, measured: Measured | None) -> Html:
    title = tag("h2", "Worst mistakes")
    if measured is None:
        return join([title, _without_data(model, "To see what it gets wrong, give labelled data:")])
    wrong = measured.mistaken
    if not len(wrong):
        return join([title, tag("p", f"None: no row of {len(measured.labels):,} got a wrong "
                                     "class.")])  # fmt: skip
    shown = wrong[:MOST_MISTAKES]
    proba = model.predict_proba(measured.x[shown])
    truly = proba[np.arange(len(shown)), measured.labels[shown]]
    said = f"The {len(shown)} wrong answers with the highest scores, of {len(wrong):,}."
    if len(shown) == len(wrong):
        said = f"All {count(len(wrong), 'wrong answer')}, those with the highest scores first."
    if not measured.files:
        said += f" Rows are numbered from 0, as {measured.name} has them."
    draw = {"picture": _pictures, "series": _lines, "table": _values}[model.arena.network.task]
    return join([title, note(said), draw(model.arena, measured, shown, truly)])


def _said(arena: Arena, measured: Measured, row: int, truly: float) -> Html:
    names = arena.class_names
    return join([
        "said ", tag("span", name(names[measured.found[row]], 24), class_="said"),
        f", {percent(float(measured.scores[row]))}", tag("br"), "is ",
        tag("b", name(names[measured.labels[row]], 24)), f", {percent(float(truly))}", tag("br"),
        _where(measured, row),
    ])  # fmt: skip


def _where(measured: Measured, row: int) -> Html:
    if not measured.files:
        return Html(f"row {row:,}")
    path = measured.files[row]
    return tag("bdi", shorter(os.path.basename(path), 24), title=shorter(path, 200, head=0))


def _alt(arena: Arena, measured: Measured, row: int) -> str:
    names = arena.class_names
    return f"{names[measured.labels[row]][:48]} taken for {names[measured.found[row]][:48]}"


Rows = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


def _pictures(arena: Arena, measured: Measured, shown: Rows, truly: Shares) -> Html:
    seen = page_facts.codes(arena, measured.x[shown])
    if arena.network.groups != 1:  # each pixel with a scale of its own: as the data have them
        raw = np.asarray(measured.x[shown], np.float64)
        seen = 255 * (raw - raw.min()) / max(1e-9, float(np.ptp(raw)))
    pixels = np.rint(seen).astype(np.uint8).reshape(-1, *arena.network.shape)
    channels = pixels.shape[3]
    pixels = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    figures = []
    for row, picture, share in zip(shown.tolist(), pixels, truly, strict=True):
        small = page_png.thumbnail(picture, THUMBNAIL)
        height, width = small.shape[:2]
        image = tag("img", src=page_png.picture(small), alt=_alt(arena, measured, row),
                    width=width, height=height)  # fmt: skip
        figures.append(figure(image, _said(arena, measured, row, share)))
    return tag("div", *figures, class_="faults")


def _lines(arena: Arena, measured: Measured, shown: Rows, truly: Shares) -> Html:
    """A window as curves over time, each value of a row between its own extremes."""
    length, width, _ = arena.network.shape
    windows = np.asarray(measured.x[shown], np.float64).reshape(-1, length, width)
    low, high = windows.min(axis=(0, 1)), windows.max(axis=(0, 1))
    unit = (windows - low) / np.maximum(1e-12, high - low)
    across = np.linspace(2, 198, length) if length > 1 else np.array([100.0])
    figures = []
    for row, window, share in zip(shown.tolist(), unit, truly, strict=True):
        curves = []
        for c in range(min(width, MOST_LINES)):
            points = " ".join(
                f"{x:.1f},{4 + 72 * (1 - v):.1f}" for x, v in zip(across, window[:, c], strict=True)
            )
            kind = ("blue", "orange", "teal", "plum")[c]
            curves.append(tag("polyline", points=points, class_=f"line {kind}"))
        drawn = tag("svg", *curves, viewBox="0 0 200 80", role="img", class_="spark",
                    preserveAspectRatio="none", aria_label=_alt(arena, measured, row))  # fmt: skip
        figures.append(figure(drawn, _said(arena, measured, row, share)))
    said = "Each value of a row is drawn between its smallest and its largest in these windows."
    if width > MOST_LINES:
        said += f" The first {MOST_LINES} of {width} values are drawn."
    return join([tag("div", *figures, class_="faults lines"), note(said)])


def _values(arena: Arena, measured: Measured, shown: Rows, truly: Shares) -> Html:
    names = page_facts.row_names(arena)
    # The columns that the first layer weighs most.
    order = np.argsort(-page_facts.strength(arena), kind="stable")[:MOST_COLUMNS]
    chosen = np.sort(order).tolist()
    rows = []
    for row, share in zip(shown.tolist(), truly, strict=True):
        rows.append([
            _where(measured, row) if measured.files else f"{row:,}",
            name(arena.class_names[measured.labels[row]], 24), percent(float(share)),
            tag("span", name(arena.class_names[measured.found[row]], 24), class_="said"),
            percent(float(measured.scores[row])),
            *(plain_value(float(measured.x[row, i])) for i in chosen),
        ])  # fmt: skip
    heads = [
        "file" if measured.files else "row",
        "is",
        "score",
        "taken for",
        "score",
        *(name(names[i], 20) for i in chosen),
    ]
    caption = "Rows of values"
    if len(chosen) < len(names):
        caption += f": the {len(chosen)} of {len(names):,} columns that the first layer weighs most"
    right = (2, 4, *range(5, 5 + len(chosen)))
    return table(caption, heads, rows, right=right, class_="values")


def plain_value(value: float) -> str:
    """A measurement in at most six digits."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.6g}"


# ---- training ----


def training(model: Model, history: History | None) -> Html:
    title = tag("h2", "Training")
    arena = model.arena
    facts = f"{arena.samples:,} samples, {arena.steps:,} steps, seed {arena.seed}"
    if history is None:
        text = f"Trained with {facts}. To see how it went, and which connections moved, train with "
        return join([
            title,
            tag("p", text, tag("code", "--log TRAIN_LOG"), " and give the log here:",
                class_="missing"),
            missing("", f"zgedge report {shlex.quote(model.name)} --log TRAIN_LOG"),
        ])  # fmt: skip
    epochs = history.epochs
    numbers = [int(event["epoch"]) for event in epochs]
    kept = history.end.get("best_epoch")
    said = f"{count(len(epochs), 'epoch')}, {facts}"
    if isinstance(kept, int) and kept:
        said += f"; the network is that of epoch {kept}"
    if history.end.get("interrupted"):
        said += "; it was interrupted"
    if not history.end:
        said += "; the log has no end, so training was cut off or goes on"
    across = _epochs(numbers)

    def share(v: float) -> str:
        return f"{100 * v:.4g} %"

    values = [float(event["accuracy"]) for event in epochs]
    first = Plot(across, axis(values, share, most=1.0))
    first.line(numbers, values, "blue", "epoch")
    losses = [float(event["loss"]) for event in epochs]
    second = Plot(across, axis(losses, zero=True))
    second.line(numbers, losses, "orange", "epoch")
    if isinstance(kept, int) and kept in numbers:
        for plot in (first, second):
            plot.upright(kept, "kept")
    best = max(values)
    charts = tag(
        "div",
        figure(first.draw(f"Accuracy by epoch, at best {percent(best, 2)}", "epoch",
                          f"accuracy on {measured_on(history.start)}")),
        figure(second.draw(f"Loss by epoch, at last {losses[-1]:.3g} nats", "epoch",
                           "loss in training, nats")),
        class_="grid",
    )  # fmt: skip
    return join([
        title, note(f"{said}."), charts,
        tag("h3", "Connections dropped and grown"), _rewired(arena, history, numbers),
    ])  # fmt: skip


def _epochs(numbers: list[int]) -> Axis:
    found = axis([numbers[0], numbers[-1]], whole=True)
    ticks = tuple(t for t in found.ticks if numbers[0] <= t <= numbers[-1])
    last = max(numbers[-1], numbers[0] + 1)
    return Axis(numbers[0], last, ticks, plain)


def _rewired(arena: Arena, history: History, numbers: list[int]) -> Html:
    moved = history.rewired
    offset = len(arena.network.trunk)
    sparse = [i for i, x in enumerate(arena.network.layers) if x.kind == "sparse"]
    if not sparse:
        return note("None: no layer is sparse, so there are no wires to move.")
    if not moved.any():
        return note("None moved: the wiring stayed as it was at the start.")
    total, there = int(moved.sum()), sum(arena.network.layers[i].weights for i in sparse)
    low, high = numbers[0], max(numbers[-1], numbers[0] + 1)
    across = _epochs(numbers)
    across = Axis(low - 0.5, high + 0.5, across.ticks, plain)
    tops = moved.sum(axis=1)
    most = axis([0, int(tops.max())], whole=True)
    both = tuple(sorted({-t for t in most.ticks} | set(most.ticks)))
    plot = Plot(across, Axis(both[0], both[-1], both, lambda v: plain(abs(v))), HEIGHT + 40)
    for row, number in zip(moved, numbers, strict=True):
        below = 0
        for i in sparse:
            n = int(row[i])
            if not n:
                continue
            kind = f"l{min(4, sparse.index(i) + 1)}"
            said = f"epoch {number}, layer {offset + i + 1}: {n:,} dropped, {n:,} grown"
            left, right = number - 0.42, number + 0.42
            plot.bar(left, right, below, below + n, kind, said)
            plot.bar(left, right, -below - n, -below, f"{kind} drop", said)
            below += n
    alt = f"Connections grown and dropped by epoch, {total:,} of each in all"
    keys = [
        tag("li", tag("span", class_=f"sw l{min(4, k + 1)}"), f"layer {offset + i + 1}")
        for k, i in enumerate(sparse)
    ]
    text = f"{total:,} connections were dropped and as many grown, {total / there:.1f} times all "
    text += f"{there:,} that the sparse layers have: what goes makes room for what comes."
    chart = figure(plot.draw(alt, "epoch", "grown (up) and dropped (down), connections"))
    running = np.cumsum(tops).tolist()
    line = Plot(_epochs(numbers), axis([0, *running], whole=True))
    line.line(numbers, running, "blue", "until epoch")
    so_far = figure(line.draw(f"Connections replaced until each epoch, {total:,} at the end",
                              "epoch", "replaced so far, connections"))  # fmt: skip
    return join([
        note(text), tag("ul", *keys, class_="keys") if len(sparse) > 1 else None,
        tag("div", chart, so_far, class_="grid"),
    ])  # fmt: skip
