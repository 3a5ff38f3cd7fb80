"""The report: complete in itself, true to the model, harmless, and seen in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests import nets
from tests.cli.conftest import refused, run, run_json
from tests.report import browser
from zgedge import arena
from zgedge.runtime import Model

SECTIONS = ("bytes", "layers", "accuracy", "mistakes", "training", "wires", "weights")
NETWORKS = {"plain": "s64:20/4 b4 r50", "trunk": "c3x8 p2 c3x8+ s32:24/4 d b4 r20"}
HOSTILE = "<img src=x onerror=alert(1)>&\"'"


class Reader(HTMLParser):
    """What a page holds: text by section, addresses, tags, ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: dict[str, str] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.images_without_words = 0
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag in ("section", "header", "footer"):
            self._section = found.get("id") or tag
        if tag == "img" and "alt" not in found:  # empty where the words stand beside it
            self.images_without_words += 1
        for name in ("src", "href", "data", "action", "srcset"):
            if found.get(name):
                self.addresses.append(str(found[name]))

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A digits model without and one with a trunk, each with its log beside it."""
    folder = tmp_path_factory.mktemp("report")
    for name, spec in NETWORKS.items():
        run(
            "train", "digits", "--budget", "32KB", "--network", spec, "--epochs", 4, "--seed", 1,
            "--log", folder / f"{name}.jsonl", "--out", folder / f"{name}.zge",
        )  # fmt: skip
    return {name: folder / f"{name}.zge" for name in NETWORKS}


@pytest.fixture(scope="module")
def pages(models: dict[str, Path]) -> dict[str, Path]:
    for path in models.values():
        run(
            "report", path, "--data", "digits", "--log", path.with_suffix(".jsonl"),
            "--out", path.with_suffix(".html"),
        )  # fmt: skip
    return {name: path.with_suffix(".html") for name, path in models.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_page_is_complete_in_itself(pages: dict[str, Path], name: str) -> None:
    text = pages[name].read_text(encoding="utf-8")
    page = Reader(text)
    assert len(text) < 3_000_000
    assert "script" not in page.tags
    assert page.addresses
    assert all(a.startswith(("#", "data:image/")) for a in page.addresses)
    assert not re.search(r"url\(\s*['\"]?(?!data:)", text)
    assert page.images_without_words == 0
    assert all(len(page.text[section]) > 40 for section in SECTIONS)


@pytest.mark.parametrize("name", NETWORKS)
def test_figures_are_those_of_the_model(
    models: dict[str, Path], pages: dict[str, Path], name: str
) -> None:
    page = Reader(pages[name].read_text(encoding="utf-8"))
    about = run_json("info", models[name])
    measured = run_json("eval", models[name], "digits")
    assert "Rows are numbered from 0, as digits has them" in page.text["mistakes"]
    everything = " ".join(page.text.values())
    assert f"{about['bytes']:,}" in everything
    assert f"{about['inference_bytes']:,}" in everything
    assert f"{measured['accuracy']:.2%}".rstrip("%") in page.text["accuracy"].replace("\xa0", " ")
    for section, size in about["sections"].items():
        assert section == "header" or f"{size:,}" in page.text["bytes"]


def test_trunk_is_shown_layer_by_layer(models: dict[str, Path], pages: dict[str, Path]) -> None:
    page = Reader(pages["trunk"].read_text(encoding="utf-8"))
    trunk = run_json("info", models["trunk"])["trunk"]
    assert len(trunk) == 3
    for layer in trunk:
        assert layer["kind"].replace("-", " ") in page.text["layers"].replace("-", " ")
        assert not layer["weights"] or f"{layer['weights']:,}" in page.text["layers"]


def test_without_data_and_log_the_page_says_what_would_add_them(
    models: dict[str, Path], tmp_path: Path
) -> None:
    run("report", models["plain"], "--out", tmp_path / "bare.html")
    page = Reader((tmp_path / "bare.html").read_text(encoding="utf-8"))
    assert "--data" in page.text["accuracy"]
    assert "--data" in page.text["mistakes"]
    assert "--log" in page.text["training"]


def test_names_cannot_put_anything_into_the_page(tmp_path: Path) -> None:
    names = [HOSTILE, "</style><marquee>", "plain", "x" * 300]
    net = nets.network(classes=4)
    net = replace(net, names_bytes=len(arena.names_blob(names)))
    p = nets.parameters(net)
    p.class_names, p.int_classes = names, False
    (tmp_path / "m.zge").write_bytes(arena.write(net, p))
    run("report", tmp_path / "m.zge", "--out", tmp_path / "m.html")
    page = Reader((tmp_path / "m.html").read_text(encoding="utf-8"))
    assert "marquee" not in page.tags
    assert not any(a == "x" for a in page.addresses)
    assert "<img src=x" in " ".join(page.text.values())


def test_two_and_a_thousand_classes(tmp_path: Path) -> None:
    for classes in (2, 1000):
        path = tmp_path / f"{classes}.zge"
        path.write_bytes(nets.file(nets.network(classes=classes)))
        run("report", path, "--out", tmp_path / "m.html")
        page = Reader((tmp_path / "m.html").read_text(encoding="utf-8"))
        assert all(page.text.get(section) for section in SECTIONS)
        assert (tmp_path / "m.html").stat().st_size < 3_000_000


def test_an_older_file_shows_which_wires_went(models: dict[str, Path], tmp_path: Path) -> None:
    run(
        "adapt", models["plain"], "digits", "--steps", 200, "--out", tmp_path / "later.zge",
    )  # fmt: skip
    run(
        "report", tmp_path / "later.zge", "--before", models["plain"],
        "--out", tmp_path / "m.html",
    )  # fmt: skip
    old, new = (Model.open(p).arena.indices(0) for p in (models["plain"], tmp_path / "later.zge"))
    assert old is not None
    assert new is not None
    kept = sum(len(set(a) & set(b)) for a, b in zip(old.tolist(), new.tolist(), strict=True))
    went = (old.size - kept) * 4
    page = Reader((tmp_path / "m.html").read_text(encoding="utf-8"))
    assert went > 0
    assert f"{went:,}" in page.text["wires"]


def test_another_log_or_older_file_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "no.jsonl").write_text("not json\n")
    refused("report", models["plain"], "--log", tmp_path / "no.jsonl", code=3)
    refused("report", models["plain"], "--before", models["trunk"], code=2)
    assert not (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium here; tools/get_chromium.sh installs it")
    opened = browser.Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [400, 800, 1400])
@pytest.mark.parametrize("name", NETWORKS)
def test_browser_shows_it_at_any_width_without_a_request_or_a_complaint(
    window: browser.Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    seen = []
    for dark in (False, True):
        window.open(pages[name], width=width, dark=dark)
        assert window.complaints() == []
        assert window.requests() == [pages[name].resolve().as_uri()]
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        assert window.evaluate("document.querySelectorAll('section h2').length") == len(SECTIONS)
        drawn = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert window.evaluate(drawn)
        style = "getComputedStyle(document.body)"
        seen.append((
            window.evaluate(f"{style}.backgroundColor"), window.evaluate(f"{style}.color")
        ))  # fmt: skip
    assert seen[0] != seen[1]
