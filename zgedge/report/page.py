"""The report: one HTML page about a model file, complete in itself.

It asks for nothing from any network, and forbids its reader's browser to: styles, drawings and
pictures are in the page, and there is no script. It follows the reader's light or dark theme.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import zgedge
from zgedge.report import page_facts, page_results, page_sections, page_style
from zgedge.report.page_facts import History, Measured
from zgedge.report.page_html import Html, join, tag
from zgedge.runtime import Model

# Whatever a file's names may try, the page loads and runs nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SECTIONS = {
    "bytes": "Bytes", "layers": "Layers", "accuracy": "Accuracy", "mistakes": "Mistakes",
    "training": "Training", "wires": "Wires", "weights": "Weights",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What a page is about. `measured`, `history` and `older` are None where nothing was given."""

    model: Model
    measured: Measured | None = None
    history: History | None = None
    older: Model | None = None


def build(subject: Subject) -> str:
    """The page's text. Raises UsageError where the older file looks at other inputs."""
    model, measured = subject.model, subject.measured
    if subject.older is not None:
        page_facts.check_older(subject.older, model)
    arena = model.arena
    parts = {
        "bytes": page_sections.byte_map(arena),
        "layers": page_sections.layers(arena.network),
        "accuracy": page_results.accuracy(model, measured),
        "mistakes": page_results.mistakes(model, measured),
        "training": page_results.training(model, subject.history),
        "wires": page_sections.wires(model, subject.older, subject.history),
        "weights": page_sections.weights(arena),
    }
    links = [tag("li", tag("a", text, href=f"#{part}")) for part, text in SECTIONS.items()]
    body = tag(
        "body",
        tag("header", page_sections.head(model, measured),
            tag("nav", tag("ul", *links), aria_label="Sections")),
        tag("main", *(tag("section", parts[part], id=part) for part in SECTIONS)),
        tag("footer", _foot(model)),
    )  # fmt: skip
    title = f"{os.path.basename(model.name)} - zgedge report"
    style = tag("style", Html(page_style.sheet()))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        style,
    )
    return join(["", Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"), Html("\n")])


def _foot(model: Model) -> Html:
    arena = model.arena
    network = arena.network
    facts = [
        f"Format {arena.version}, written {arena.generation:,} times since it was trained"
        if arena.generation else f"Format {arena.version}",
        f"{network.connections:,} weights of 8 bits",
    ]  # fmt: skip
    learner = arena.learner()
    if learner is not None and network.replay_samples:
        facts.append(
            f"remembers {learner['remembered']:,} of {network.replay_samples:,} samples that fit, "
            f"{network.replay_coding}"
        )
    return tag("p", "; ".join(facts), f". zgedge {zgedge.__version__}.")
