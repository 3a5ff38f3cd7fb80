"""Pictures of a training, drawn from its log (`zgedge.train.log`) with matplotlib."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.errors import DataError, ZgedgeError
from zgedge.extras import need


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events of a training log. Raises DataError where the file is none."""
    events = []
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                event = json.loads(line)
                if not isinstance(event, dict) or "event" not in event:
                    raise DataError(f"{path}, line {number}: not an event of a training log.")
                events.append(event)
    except OSError as e:
        raise DataError(f"Cannot read {path}: {e.strerror}.", "Check the path.") from e
    except (ValueError, UnicodeDecodeError) as e:
        raise DataError(
            f"{path} is not a training log: {e}.", "`zgedge train --log FILE` writes one."
        ) from e
    if not any(event["event"] == "epoch" for event in events):
        raise DataError(f"{path} holds no epoch.", "Let a training run for at least one epoch.")
    return events


def draw(log: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Draw a training: accuracy and loss, connections rewired, and where the wires went.

    The form of the picture follows from the end of `out`'s name (.png, .svg, .pdf).
    Raises DataError for a log that is none, MissingExtraError without matplotlib, ZgedgeError where
    the picture cannot be written.
    """
    events = read_log(log)
    epochs = [event for event in events if event["event"] == "epoch"]
    wires = [event for event in events if event["event"] == "wires"]
    start = next((event for event in events if event["event"] == "start"), {})
    rows = 2 if wires else 1
    picture = figure((11, 4 * rows))
    axes = picture.subplots(rows, 2, squeeze=False)
    _accuracy(axes[0][0], epochs, measured_on(start))
    _rewired(axes[0][1], epochs, len(start.get("trunk") or ()))
    # One scale for all, so that start and end can be compared.
    grids = [grid_of(event["shape"], event["counts"]) for event in wires]
    most = max((float(grid.max()) for grid in grids), default=0.0)
    for axis, event, grid in zip(axes[-1] if wires else [], wires, grids, strict=False):
        title = f"wires on each input, {event['when']} of training"
        draw_wires(picture, axis, grid, title, most)
    for axis in axes[-1][len(wires) :] if wires else []:
        axis.axis("off")
    title = f"{start.get('data', 'training')}, {start.get('strategy', '')}".rstrip(", ")
    picture.suptitle(plain(title))
    save(picture, out)


def figure(inches: tuple[float, float]) -> Any:
    """An empty figure of matplotlib's. Raises MissingExtraError without it."""
    # The object interface draws without a display and leaves no global state behind.
    figure_module: Any = need("matplotlib.figure", "report")
    return figure_module.Figure(figsize=inches, layout="constrained")


def plain(text: str) -> str:
    """A name as it is drawn: between two dollars matplotlib would read a formula."""
    return text.replace("$", r"\$")


def save(picture: Any, out: str | os.PathLike[str]) -> None:
    """Write a figure. Raises ZgedgeError where that fails."""
    try:
        picture.savefig(out, dpi=120)
    except ValueError as e:
        raise ZgedgeError(f"Cannot draw {out}: {e}.", "Name it .png, .svg or .pdf.") from e
    except OSError as e:
        raise ZgedgeError(
            f"Cannot write {out}: {e.strerror}.", "Check that its folder exists and has room."
        ) from e


def measured_on(start: dict[str, Any]) -> str:
    """What the accuracies of a log are of, by its event of the start."""
    return "training rows" if start.get("held_out") == 0 else "held-out rows"


def _accuracy(axis: Any, epochs: list[dict[str, Any]], rows: str) -> None:
    numbers = [event["epoch"] for event in epochs]
    axis.plot(numbers, [100 * event["accuracy"] for event in epochs], color="tab:blue")
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"accuracy on {rows}, %", color="tab:blue")
    other = axis.twinx()
    other.plot(numbers, [event["loss"] for event in epochs], color="tab:orange")
    other.set_ylabel("loss, nats", color="tab:orange")
    other.set_ylim(bottom=0)


def _rewired(axis: Any, epochs: list[dict[str, Any]], before: int) -> None:
    """Layers are numbered as `zgedge info` does: those of a trunk stand `before` them."""
    numbers = [event["epoch"] for event in epochs]
    counts = np.array([event["rewired"] for event in epochs])
    below = np.zeros(len(numbers))
    for layer in range(counts.shape[1]):
        if counts[:, layer].any():
            axis.bar(numbers, counts[:, layer], 1.0, below, label=f"layer {before + layer + 1}")
            below += counts[:, layer]
    axis.set_xlabel("epoch")
    axis.set_ylabel("connections rewired")
    if below.any():
        axis.legend()
    else:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center")


def grid_of(shape: Sequence[int], counts: Any) -> npt.NDArray[np.float64]:
    """Wires on each place of the input, [height, width], channels added up; of a single place
    those of each channel, [1, channels]."""
    values = np.asarray(counts, np.float64).reshape(shape)
    grid: npt.NDArray[np.float64] = values[0] if shape[0] * shape[1] == 1 else values.sum(axis=2)
    return grid


def draw_wires(
    figure: Any, axis: Any, grid: npt.NDArray[np.float64], title: str, most: float
) -> None:
    """A map of wires on a scale from 0 to `most`; bars where the inputs have no places."""
    axis.set_title(title)
    if len(grid) > 1:
        image = axis.imshow(grid, cmap="viridis", vmin=0, vmax=most)
        figure.colorbar(image, ax=axis)
        axis.set_xticks([])
        axis.set_yticks([])
    else:
        axis.bar(np.arange(grid.size), grid.reshape(-1), 1.0)
        axis.set_ylim(0, max(1.0, 1.05 * most))
        axis.set_xlabel("input")
