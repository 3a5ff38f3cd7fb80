"""The byte map: every byte once, in the bar and in the list."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import nets
from zgedge import network as net
from zgedge.network import Network, dense, sparse
from zgedge.report import bytemap
from zgedge.report.screen import Plain

NETWORKS = {
    "learning": nets.network(replay_samples=9, replay_bits=4),
    "without replay": nets.network(),
    "no learning": nets.network().for_inference(),
    "one layer": nets.network(hidden=()),
    "dense": nets.network((1, 16, 1), (dense(16, 8),), 3),
    "deep": nets.network((8, 8, 1), (sparse(64, 40, 16, 4), sparse(40, 20, 8)), 10, groups=64),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("left", [0, 1, 5000])
def test_parts_are_every_byte_of_the_budget(network: Network, left: int) -> None:
    parts = bytemap.parts(network, network.file_bytes + left)
    assert sum(part.bytes for part in parts) == network.file_bytes + left
    assert ("unused" in [part.name for part in parts]) == (left > 0)
    sizes = {part.name: part.bytes for part in parts}
    for kind, size in network.section_bytes().items():
        assert sizes[net.SECTION_NAMES[kind]] == size


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_groups_are_what_prediction_and_learning_need(network: Network) -> None:
    groups = {part.name: part.group for part in bytemap.parts(network)}
    learning = {net.SECTION_NAMES[kind] for kind in net.LEARNING_SECTIONS}
    for name, group in groups.items():
        assert group == (bytemap.LEARN if name in learning else bytemap.PREDICT)
    if not network.learning:
        assert bytemap.LEARN not in groups.values()


def test_an_unknown_budget_is_no_unused_part() -> None:
    assert "unused" not in [part.name for part in bytemap.parts(nets.network(), 0)]


def test_every_section_has_a_look_of_its_own() -> None:
    assert set(bytemap._LOOK) == {0, *net.ORDER}
    letters = [letter for letter, _, _ in bytemap._LOOK.values()]
    assert len(set(letters)) == len(letters)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=12), st.integers(1, 200))
def test_cells_fill_the_bar_in_proportion(amounts: list[int], width: int) -> None:
    cells = bytemap.cells(amounts, width)
    assert sum(cells) == width
    for amount, n in zip(amounts, cells, strict=True):
        assert abs(n - width * amount / sum(amounts)) < 1


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_drawn_numbers_add_up(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    bytemap.draw(Plain(), network, 2 * network.file_bytes)
    bar, *lines = capsys.readouterr().out.splitlines()
    assert len(bar.strip()) == Plain().width - 4
    assert bar.count(".") == pytest.approx(len(bar.strip()) / 2, abs=1)
    listed = {}
    for line in lines:
        found = re.match(r"  (?:(\w) )?([a-z ]+?) +([\d,]+) +([\d.]+)%", line)
        assert found is not None, line
        listed[found[2]] = (int(found[3].replace(",", "")), float(found[4]), found[1])
    total = 2 * network.file_bytes
    for size, share, _ in listed.values():
        assert share == pytest.approx(100 * size / total, abs=0.06)
    members = sum(size for size, _, letter in listed.values() if letter)
    assert members == network.file_bytes
    assert sum(size for size, _, letter in listed.values() if not letter) == total


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_layers_are_listed(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    rows = bytemap.layer_rows(network)
    assert sum(int(str(row["connections"])) for row in rows) == network.connections
    bytemap.draw_layers(Plain(), network)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(network.layers)
    for line, layer, row in zip(lines[1:], network.layers, rows, strict=True):
        assert f"{1 - layer.density:.1%}" in line
        assert row["sparsity"] == pytest.approx(1 - layer.density, abs=1e-4)
        assert layer.kind in line
