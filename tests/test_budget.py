"""The planner: never above the budget, no byte wasted, and a clear word where nothing fits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import nets
from zgedge import arena
from zgedge.budget import Plan, Task, block_for, fan_in_for, format_size, parse_size, plan
from zgedge.errors import BudgetError, UsageError
from zgedge.network import BLOCKS, DENSE, KB
from zgedge.runtime import Model

DIGITS = Task((8, 8, 1), 10, 20, 1, "picture", 1438)
MNIST = Task((28, 28, 1), 10, 20, 1, "picture", 60_000)
TABLE = Task((1, 13, 1), 3, 6, 13, "table", 142)
BUDGETS = ("2KB", "4KB", "12KB", "16KB", "48KB", "64KB", "256KB", "1MB", "16MB")


def _plan_or_smallest(task: Task, budget: int, learning: bool) -> Plan | int:
    """The plan, or the smallest budget that the refusal names."""
    try:
        return plan(task, budget, learning=learning)
    except BudgetError as e:
        return e.smallest or 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("256KB", 262_144), ("2KB", 2048), ("16MB", 16 * KB * KB), ("1.5 MB", 1_572_864),
     ("4096", 4096), ("64k", 65_536), ("12 KiB", 12_288)],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["12", "-5KB", "1TB", "abc", "", "1GB", "17MB", "1KB", "nanKB"])
def test_size_that_means_nothing(text: str) -> None:
    with pytest.raises(UsageError) as e:
        parse_size(text)
    assert e.value.exit_code == 2
    assert "KB" in str(e.value)


def test_sizes_are_written_as_people_read_them() -> None:
    assert [format_size(n) for n in (100, 2048, 262_144, 1_572_864)] == [
        "100 bytes", "2 KB", "256 KB", "1.5 MB",
    ]  # fmt: skip


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "no-learning"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("task", [DIGITS, MNIST, TABLE], ids=["digits", "mnist", "table"])
def test_plan_stays_below_its_budget_and_opens(task: Task, budget: str, learning: bool) -> None:
    size = parse_size(budget)
    chosen = _plan_or_smallest(task, size, learning)
    if isinstance(chosen, int):
        assert chosen > size
        return
    assert chosen.bytes <= size
    if not chosen.saturated:
        # A channel more costs a trunk more than a unit more costs a layer.
        spare = 0.1 if chosen.network.trunk else 0.03
        assert size - chosen.bytes <= spare * size + chosen.network.replay_sample_bytes
    if chosen.bytes <= KB * KB:
        parameters = nets.parameters(chosen.network)
        blob = arena.write(chosen.network, parameters)
        assert len(blob) == chosen.bytes
        Model(nets.buffer(blob))


def test_past_saturation_the_file_is_shorter_and_says_so() -> None:
    big = plan(DIGITS, parse_size("16MB"))
    assert big.saturated
    assert big.bytes == plan(DIGITS, parse_size("1MB")).bytes < 256 * KB
    assert any("saturated" in why for _, why in big.reasons)


def test_budget_too_small_names_the_smallest_that_works() -> None:
    with pytest.raises(BudgetError) as e:
        plan(MNIST, 2048)
    smallest = e.value.smallest
    assert smallest is not None
    assert f"{smallest:,}" in str(e.value)
    assert plan(MNIST, smallest).bytes <= smallest
    with pytest.raises(BudgetError):
        plan(MNIST, smallest - 1)


def test_no_learning_leaves_out_what_only_learning_needs() -> None:
    from zgedge.network import LEARNING_SECTIONS

    chosen = plan(DIGITS, parse_size("16KB"), learning=False).network
    assert not set(chosen.section_bytes()) & set(LEARNING_SECTIONS)
    assert chosen.inference_bytes == chosen.file_bytes


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 3000),
    classes=st.integers(2, 300),
    samples=st.integers(10, 100_000),
    kind=st.sampled_from(["table", "picture", "series"]),
    budget=st.integers(2 * KB, 512 * KB),
    learning=st.booleans(),
)
def test_any_task_and_budget(
    inputs: int, classes: int, samples: int, kind: str, budget: int, learning: bool
) -> None:
    groups = 1 if kind == "picture" else inputs
    task = Task((1, inputs, 1), classes, 5 * classes, groups, kind, samples)
    found = _plan_or_smallest(task, budget, learning)
    if isinstance(found, int):
        assert found > budget
        return
    chosen = found.network
    assert chosen.file_bytes <= budget
    assert chosen.layers[-1].outputs == classes
    assert chosen.batch & (chosen.batch - 1) == 0
    for layer in chosen.layers:
        if layer.kind == DENSE:
            continue
        assert layer.inputs % layer.block == 0
        # A sparse layer that costs more than a dense one would be a mistake.
        assert layer.inference_bytes < layer.outputs * (layer.inputs + 8)


@given(inputs=st.integers(1, 65_536), block=st.sampled_from(BLOCKS))
def test_fan_in_is_made_of_whole_blocks(inputs: int, block: int) -> None:
    inputs -= inputs % block
    if inputs:
        fan_in = fan_in_for(inputs, block)
        assert 0 < fan_in <= inputs
        assert fan_in % block == 0


def test_columns_of_a_table_share_no_index() -> None:
    assert block_for(TABLE) == 1
    assert block_for(MNIST) == 4
