"""The planner: never above the budget, no byte wasted, and a clear word where nothing fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import nets
from zgedge import arena
from zgedge.budget import (
    Plan,
    Task,
    block_for,
    candidates,
    fan_in_for,
    fitted,
    format_size,
    named,
    parse_size,
    picture_plan,
    plan,
    smallest_budget,
    sparse_plan,
)
from zgedge.data import Dataset
from zgedge.errors import BudgetError, UsageError
from zgedge.network import BLOCKS, DENSE, KB, SPARSE
from zgedge.runtime import Model
from zgedge.space import families
from zgedge.spec import parse, spec_of

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


@pytest.mark.parametrize("size", [16 * KB, 32 * KB, 64 * KB])
def test_what_is_saturated_takes_no_more_bytes(size: int) -> None:
    """Neither for weights nor to remember more."""
    chosen, larger = plan(DIGITS, size), plan(DIGITS, 4 * size)
    assert chosen.saturated == (chosen.bytes == larger.bytes) == (size == 64 * KB)


def test_hidden_units_are_looked_at_too() -> None:
    """A network with hidden units behind its trunk: there is more than the trunk to widen."""
    task = replace(DIGITS, samples=60_000)
    found = next(c for c in candidates(task, 64 * KB) if c.family and c.family.hidden)
    assert not picture_plan(found, task, 64 * KB, ("named", "")).saturated


def _of_shape(shape: tuple[int, int, int], classes: int, kind: str = "picture") -> Task:
    inputs = shape[0] * shape[1] * shape[2]
    groups = 1 if kind == "picture" else inputs
    return Task(shape, classes, 6 * classes, groups, kind, 40 * classes)


OF_MANY_FORMS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "table": TABLE,
    "wide table": _of_shape((1, 3000, 1), 4, "table"),
    "series": _of_shape((64, 40, 1), 4, "series"),
    "grey 28": _of_shape((28, 28, 1), 4),
    "colour 32": _of_shape((32, 32, 3), 10),
    "colour 64, few samples": Task((64, 64, 3), 4, 24, 1, "picture", 32),
    "grey 64": _of_shape((64, 64, 1), 2),
    "colour 64": _of_shape((64, 64, 3), 4),
    "colour 64, many classes": _of_shape((64, 64, 3), 300),
    "colour 96": _of_shape((96, 96, 3), 4),
    "colour 128": _of_shape((128, 128, 3), 4),
    "colour 20 x 45": _of_shape((20, 45, 3), 4),
    "colour 48 x 64": _of_shape((48, 64, 3), 1000),
    "colour 5": _of_shape((5, 5, 3), 1000),
    "no room for windows": _of_shape((3, 2000, 1), 4),
}


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "no-learning"])
@pytest.mark.parametrize("task", OF_MANY_FORMS.values(), ids=OF_MANY_FORMS.keys())
def test_budget_too_small_names_the_smallest_that_works(task: Task, learning: bool) -> None:
    smallest = smallest_budget(task, learning=learning)
    if smallest > 2 * KB:
        for budget in (2 * KB, (2 * KB + smallest) // 2, smallest - 1):
            with pytest.raises(BudgetError) as e:
                plan(task, budget, learning=learning)
            assert e.value.smallest == smallest
            assert f"works is {smallest:,} bytes" in str(e.value.hint)
            without = f"or {smallest_budget(task, learning=False):,} with --no-learning"
            assert (without in str(e.value.hint)) == learning
            assert not candidates(task, budget, learning=learning)
    # Nor does a larger one that a network without a trunk does not reach.
    for more in (0, 1, 100, 800, 3000):
        budget = smallest + more
        chosen = plan(task, budget, learning=learning)
        assert chosen.bytes <= budget
        if budget < 32 * KB:  # where sections are aligned alike
            spec = spec_of(chosen.network)
            assert named(task, budget, spec, learning=learning).network == chosen.network


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "no-learning"])
def test_the_smallest_budget_is_that_of_a_convolution_where_one_fits_in_less(
    learning: bool,
) -> None:
    task = OF_MANY_FORMS["colour 64"]
    assert plan(task, smallest_budget(task, learning=learning), learning=learning).network.trunk
    with pytest.raises(BudgetError) as e:
        sparse_plan(task, 2 * KB, learning=learning)
    assert (e.value.smallest or 0) > 3 * smallest_budget(task, learning=learning)


def test_the_smallest_budget_holds_nothing_back_that_no_sample_needs() -> None:
    task = OF_MANY_FORMS["colour 64, few samples"]
    smallest = smallest_budget(task)
    chosen = plan(task, smallest)
    assert chosen.bytes == smallest
    assert chosen.network.replay_samples == task.samples


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "no-learning"])
def test_the_search_takes_the_smallest_budget_and_names_it(learning: bool) -> None:
    from zgedge.data.dataset import Dataset
    from zgedge.train.search import choose

    x = np.zeros((40, 64 * 64 * 3), np.uint8)
    y = np.arange(40, dtype=np.int64) % 4
    dataset = Dataset(
        "photos", x, y, x[:4], y[:4], ("a", "b", "c", "d"), False, (64, 64, 3), "picture"
    )
    smallest = smallest_budget(Task.of(dataset), learning=learning)
    for latency in (None, 1e-3):

        def ask(budget: int, most: float | None = latency) -> int:
            found = choose(
                dataset, budget, learning=learning, trials=False, most_latency=most,
                latency=None if most is None else lambda network: most,
            )  # fmt: skip
            return found.plan.bytes

        assert ask(smallest) <= smallest
        with pytest.raises(BudgetError) as e:
            ask(smallest - 1)
        assert e.value.smallest == smallest


def test_no_learning_leaves_out_what_only_learning_needs() -> None:
    from zgedge.network import LEARNING_SECTIONS

    chosen = plan(DIGITS, parse_size("16KB"), learning=False).network
    assert not set(chosen.section_bytes()) & set(LEARNING_SECTIONS)
    assert chosen.inference_bytes == chosen.file_bytes


@settings(max_examples=60, deadline=None)
@example(inputs=1, classes=2, samples=10, kind="table", budget=32 * KB, learning=True)
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


SHAPES = ((8, 8, 1), (28, 28, 1), (32, 32, 3), (20, 45, 3), (64, 64, 3), (5, 5, 1))


FAMILIES = {shape: list(families(shape)) for shape in SHAPES}


def _picture(shape: tuple[int, int, int], samples: int = 2000, classes: int = 10) -> Task:
    return Task(shape, classes, 2 * classes, 1, "picture", samples)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    pick=st.integers(0, 10**6),
    budget=st.integers(4 * KB, 300 * KB),
    learning=st.booleans(),
)
def test_any_family_at_any_budget(
    shape: tuple[int, int, int], pick: int, budget: int, learning: bool
) -> None:
    task, every = _picture(shape), FAMILIES[shape]
    found = fitted(task, budget, every[pick % len(every)], learning=learning)
    if found is None:
        return
    network = found.network
    assert network.file_bytes <= budget
    assert network.learning == learning
    # What a device learns by rewiring needs a sparse layer that is not whole.
    assert not learning or any(x.kind == SPARSE and x.width < x.inputs for x in network.layers)
    # The text says all of it.
    read = parse(found.spec, shape, task.classes)
    assert (read.trunk, read.layers) == (network.trunk, network.layers)
    if learning:
        assert read.batch == network.batch
        assert (read.replay or (0, 4))[0] == network.replay_samples
    assert named(task, budget, found.spec, learning=learning).network == network


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "no-learning"])
def test_pictures_get_convolutions_and_the_likeliest_first(learning: bool) -> None:
    every = candidates(MNIST, 32 * KB, learning=learning)
    assert plan(MNIST, 32 * KB, learning=learning).network == every[0].network
    assert every[0].network.trunk
    assert len({c.spec for c in every}) == len(every) > 20
    assert all(c.bytes <= 32 * KB for c in every)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (3, 40, 1), (1, 784, 1)])
def test_pictures_too_small_for_a_window(shape: tuple[int, int, int]) -> None:
    chosen = plan(_picture(shape), 16 * KB)
    assert not chosen.network.trunk
    assert "no room for a window" in chosen.reasons[0][1]
    assert chosen.network == sparse_plan(_picture(shape), 16 * KB).network


def test_budget_below_the_smallest_convolution() -> None:
    task = _picture((64, 64, 3))
    assert not candidates(task, 2 * KB, learning=False)
    with pytest.raises(BudgetError):
        plan(task, 2 * KB)
    chosen = plan(DIGITS, 4 * KB)
    assert not chosen.network.trunk
    assert "no room" in chosen.reasons[0][1]


def test_tables_and_series_get_no_trunk() -> None:
    series = Task((16, 6, 1), 4, 20, 96, "series", 500)
    for task in (TABLE, series):
        assert not candidates(task, 64 * KB)
        assert plan(task, 64 * KB) == sparse_plan(task, 64 * KB)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize(
    "task", [DIGITS, MNIST, TABLE, Task((1, 3000, 1), 3, 200, 3000, "table", 500)]
)
def test_what_just_fits_is_the_same_where_it_is_named(task: Task, learning: bool) -> None:
    for more in (0, 300):
        budget = smallest_budget(task, learning=learning) + more
        made = plan(task, budget, learning=learning)
        text = spec_of(replace(made.network, replay_samples=0, replay_bits=0, replay_pool=0))
        again = named(task, budget, text, learning=learning)
        assert again.network == made.network


def test_a_named_network_is_taken_as_it_is_and_filled_up() -> None:
    text = "c5/2x8 c3x16 c3x16+ p2 s64:24/4"
    chosen = named(MNIST, 64 * KB, text)
    assert spec_of(chosen.network).startswith(text + " b")
    assert chosen.network.replay_samples
    assert chosen.bytes <= 64 * KB
    exact = named(MNIST, 64 * KB, text + " b2 r10:8").network
    assert (exact.batch, exact.replay_samples, exact.replay_bits) == (2, 10, 8)
    with pytest.raises(BudgetError) as e:
        named(MNIST, 8 * KB, text)
    assert e.value.smallest is not None
    assert f"{e.value.smallest:,}" in str(e.value)
    with pytest.raises(UsageError, match="layers of pictures"):
        named(TABLE, 64 * KB, "c1x4")


@pytest.mark.parametrize(
    ("text", "item"),
    [("c3x9999", "c3x9999"), ("c4x8", "c4x8"), ("c3x16 c3x16+9", "c3x16+9"), ("m m", "m"),
     ("c3x16+", "c3x16+"), ("d d4", "d4"), ("s8:4 c3x8", "c3x8"), ("b4 b8", "b8"), ("q", "q"),
     ("b65", "b65"), ("r5:3", "r5:3"), ("s8:6/4", "s8:6/4"), ("c3/9x8", "c3/9x8")],
)  # fmt: skip
def test_text_that_is_no_network(text: str, item: str) -> None:
    with pytest.raises(UsageError) as e:
        parse(text, (28, 28, 1), 10)
    assert repr(item) in str(e.value)


NAMED = replace(TABLE, column_bytes=100)


def _text(made: Plan) -> str:
    return spec_of(replace(made.network, replay_samples=0, replay_bits=0))


@pytest.mark.parametrize("learning", [True, False])
def test_names_of_columns_are_counted_where_they_keep_to_their_share(learning: bool) -> None:
    made = plan(NAMED, 4096, learning=learning)
    assert made.network.names_bytes == 106
    assert made.bytes <= 4096
    assert "names of 13 columns" in dict(made.reasons)
    again = named(NAMED, 4096, _text(made), learning=learning)
    assert again.network == made.network
    assert "names of 13 columns" in dict(again.reasons)


@pytest.mark.parametrize("bytes_", [513, 100_000])
def test_names_of_columns_that_take_too_much_are_left_out_and_it_is_said(bytes_: int) -> None:
    task = replace(TABLE, column_bytes=bytes_)
    made = plan(task, 4096)
    assert made.network == plan(TABLE, 4096).network
    assert "must keep their order" in dict(made.reasons)["no names of columns"]
    assert named(task, 4096, _text(made)).network == made.network


@pytest.mark.parametrize(
    ("names", "known"),
    [(("a", "b"), True), (("a", "2019"), False), (("0", "1"), False), (("a", "a"), False),
     (("a", ""), False)],
)  # fmt: skip
def test_columns_are_found_by_names_that_no_row_of_numbers_could_be(
    names: tuple[str, ...], known: bool
) -> None:
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    rows = Dataset("t", x, y, x, y, ("n", "y"), False, (1, 2, 1), "table", names)
    assert bool(rows.column_names) == bool(Task.of(rows).column_bytes) == known


def test_names_of_columns_never_make_a_budget_too_small() -> None:
    task = Task((1, 700, 1), 3, 6, 700, "table", 500, column_bytes=5000)
    smallest = smallest_budget(task)
    assert smallest == smallest_budget(replace(task, column_bytes=0))
    for budget in (smallest, 39_999, 40_000, 40_001):
        assert plan(task, budget).bytes <= budget
    tight = replace(task, column_bytes=smallest // 8)
    made = plan(tight, smallest)
    assert made.network.names_bytes == 6
    assert named(tight, smallest, _text(made)).network == made.network
