"""What the prose says is so: commands and options exist, paths exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from zgedge.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
FOLDERS = ("zgedge", "tests", "docs", "tools", "cmake", "examples", ".ci")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> Iterator[str]:
    """Command lines in the shell blocks of a page, continued lines joined."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.removeprefix("$ ").strip()
            if text and not text.startswith("#"):
                yield text


def check(words: list[str]) -> None:
    """Walk a zgedge command line: every verb and every option must be one."""
    command: click.Command = main
    # With its settings: click keeps the help option that the first context asks for.
    context = command.context_class(command, info_name="zgedge", **main.context_settings)
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        found = command.get_command(context, rest[0])
        assert found is not None, f"`{rest[0]}` is no command of `{context.command_path}`"
        command, rest = found, rest[1:]
        context = command.context_class(command, info_name=command.name, parent=context)
    options = {name for p in command.get_params(context) for name in (*p.opts, *p.secondary_opts)}
    for word in rest:
        if word.startswith("-") and not re.fullmatch(r"-(\d+.*)?", word):
            assert word.split("=")[0] in options, f"{context.command_path} has no {word}"
    assert command.get_help(context)


def test_pages_are_all_found() -> None:
    assert len(PAGES) >= 4
    assert sum(1 for page in PAGES for _ in commands(page)) >= 12


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(page):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):  # VARIABLE=value before a command
            words = words[1:]
        if words[0].rpartition("/")[2] == "zgedge":
            check(words)
        elif words[0] == "make":
            assert words[1] in targets, line
        elif words[0].startswith(("tools/", "./")):
            assert (ROOT / words[0]).is_file(), line
        elif words[1:2] == ["-m"] and words[2].startswith("zgedge"):
            assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_and_links_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text) + re.findall(
        r'(?:src|srcset)="([^":]+)"', text
    ):
        assert (page.parent / link).exists(), f"{page_id(page)} links to {link}"
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)(?:::\w+)?`", text):
        assert (ROOT / path).exists(), f"{page_id(page)} names {path}"


def test_every_make_target_explains_itself() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    for target in set(phony.split()) - {"help"}:
        assert re.search(rf"^# make {target}\b", text, re.MULTILINE), target


def test_all_pages_of_results_are_made_by_the_bench() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nbench:")[1].split("\n\n")[0]
    made = set(re.findall(r"docs/results/(\w+\.md)", recipe))
    pages = {path.name for path in (ROOT / "docs" / "results").glob("*.md")}
    assert pages <= made


def test_test_names_in_the_readme_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "README.md").read_text())
    assert len(named) >= 6, "every promise names the tests that hold it"
    for path, test in named:
        assert re.search(rf"^\s*def {test}\b", (ROOT / path).read_text(), re.MULTILINE), test


def test_figures_of_the_readme_stand_in_the_results() -> None:
    results = "".join(page.read_text() for page in ROOT.glob("docs/results/*.md"))
    figures = re.findall(
        r"\d+\.\d+ ± \d+\.\d+|[+-]\d+\.\d+ \[[^\]]+\]", (ROOT / "README.md").read_text()
    )
    assert len(figures) >= 20
    for figure in figures:
        assert figure in results, figure
