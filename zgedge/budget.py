"""From a task's shape and a byte budget to a network: arithmetic of bytes only, nothing is trained.

The rules below were read off trial trainings (docs/planner.md says which); they choose among
networks whose file length is known to the byte beforehand, so a plan never overruns its budget.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from zgedge import network as net
from zgedge.arena import names_blob
from zgedge.errors import BudgetError, DataError, UsageError
from zgedge.network import KB, Layer, Network, TrunkLayer, dense, sparse
from zgedge.space import (
    CHANNELS,
    MEAN,
    MEAN_HIDDEN,
    MOST_WIDTH,
    SMALLEST_SIDE,
    Family,
    block_of,
    expected_error,
    likely,
)
from zgedge.spec import Spec, parse, spec_of

if TYPE_CHECKING:
    from zgedge.data import Dataset

SMALLEST, LARGEST = 2 * KB, 16 * KB * KB
_UNITS = {"": 1, "B": 1, "K": KB, "KB": KB, "KIB": KB, "M": KB**2, "MB": KB**2, "MIB": KB**2}

# Fewer hidden units than this, or than some more than the classes, do worse than none.
MOST_OF_FEW = 16
MAX_UNITS = 4096
WEIGHTS_PER_SAMPLE = 16
# A plan is saturated where a budget that is so many times as large makes the same network.
MUCH_MORE = 8
MAX_REPLAY_SAMPLES = 4096
REPLAY_SHARE = 0.2
WIDE_ALIGN_FROM = 32 * KB

# Behind a trunk: the share of the bytes that hidden units may take, how much of the features a
# sparse head looks at, and the share that learning in larger steps may cost.
HIDDEN_SHARE = 0.25
FEWEST_UNITS, MOST_HIDDEN = 8, 1024
HEAD_DENSITY = 0.5
BATCH_SHARE = 0.1
# Names of columns are kept where they take at most so much of a budget.
NAMES_SHARE = 1 / 8
BATCHES = (2, 4, 8, 16)
# Trunks with fewer weights do worse than a layer that looks at the pictures itself; where a device
# learns, what is behind a trunk is all that learns, and must not be starved for one.
FEWEST_TRUNK_WEIGHTS = {False: 1000, True: 2000}
# A stage may become so many times 4 channels wider than its family's growth has it.
MOST_EXTRA = 3
# Multiply-adds of a prediction from which more take too long to train on two cores.
MOST_OPERATIONS = 40e6


def parse_size(text: str | int) -> int:
    """Bytes of a size such as "256KB", "1MB" or "2048"; KB is 1,024 bytes.

    Raises UsageError for anything else, and for sizes outside 2 KB .. 16 MB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in _UNITS:
        raise UsageError(
            f"{text!r} is not a size.",
            "Write it as 256KB or 1MB, at most 16MB; a bare number is bytes.",
        )
    # Hundreds of digits are an infinity, which is no integer.
    size = math.floor(min(float(match[1]) * _UNITS[match[2].upper()], 1e18))
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(
            f"A budget of {text} ({size:,} bytes) is outside what zgedge plans for.",
            "Budgets go from 2KB to 16MB; a bare number is bytes.",
        )
    return size


def format_size(size: int) -> str:
    """A size as people write it: 262,144 -> "256 KB"."""
    if size >= KB * KB:
        return f"{size / KB / KB:.4g} MB"
    return f"{size / KB:.4g} KB" if size >= KB else f"{size} bytes"


@dataclass(frozen=True)
class Task:
    """What the planner must know of the data.

    `shape` is (height, width, channels); `names_bytes` the length of the names in the file;
    `groups` 1 where one scale serves all inputs, else the number of inputs; `samples` the training
    samples; `column_bytes` what the names of a table's columns would take besides, 0 without any.
    """

    shape: tuple[int, int, int]
    classes: int
    names_bytes: int
    groups: int
    kind: str
    samples: int
    column_bytes: int = 0

    @property
    def inputs(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @classmethod
    def of(cls, data: Dataset) -> Task:
        """The task of a data set. Raises DataError where the format cannot hold it."""
        inputs = data.shape[0] * data.shape[1] * data.shape[2]
        if inputs > net.MAX_INPUTS:
            raise DataError(
                f"{data.name} has {inputs:,} features; a model takes at most {net.MAX_INPUTS:,}.",
                "Drop columns, or make the pictures smaller.",
            )
        if not 2 <= len(data.classes) <= net.MAX_CLASSES:
            raise DataError(
                f"{data.name} has {len(data.classes):,} classes; a model takes 2 to "
                f"{net.MAX_CLASSES:,}.",
                "Check that the label column is the right one.",
            )
        return cls(
            shape=data.shape,
            classes=len(data.classes),
            names_bytes=len(names_blob(data.classes)),
            groups=1 if data.kind == "picture" else inputs,
            kind=data.kind,
            samples=len(data.x_train),
            column_bytes=_column_bytes(data),
        )


def _column_bytes(data: Dataset) -> int:
    """What the names of the columns take, where there are some to find them by."""
    names = data.column_names
    return 0 if names is None else len(names_blob((), names))


def with_columns(task: Task, budget: int) -> Task:
    """The task with the names of its columns among its names, where these keep to their share."""
    if task.column_bytes > NAMES_SHARE * budget:
        return task
    return replace(task, names_bytes=task.names_bytes + task.column_bytes, column_bytes=0)


def _why_columns(task: Task, network: Network) -> list[tuple[str, str]]:
    """Whether the file of a planned network has the names of the columns, where there are any."""
    if not task.column_bytes:
        return []
    if network.names_bytes > task.names_bytes:
        what = f"names of {task.inputs:,} columns"
        return [(what, f"{task.column_bytes:,} bytes; columns may then come in any order")]
    why = f"{task.column_bytes:,} bytes are too many; columns must keep their order"
    return [("no names of columns", why)]


@dataclass(frozen=True)
class Plan:
    """A network for a budget. `reasons` are pairs (what was chosen, why); `fit_replay` is
    false where a person said how the replay is coded."""

    network: Network
    budget: int
    saturated: bool
    reasons: tuple[tuple[str, str], ...]
    fit_replay: bool = True

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return self.network.file_bytes


def fan_in_for(inputs: int, block: int) -> int:
    """Fan-in of a hidden unit: some 2.3 times the root of the inputs, a multiple of the block."""
    wanted = max(4, 2.3 * math.sqrt(inputs))
    return min(inputs, max(block, round(wanted / block) * block))


def block_for(task: Task) -> int:
    """Inputs that share an index: 4 where neighbours belong together, else 1."""
    return 4 if task.kind != "table" and task.inputs % 4 == 0 and task.inputs >= 32 else 1


def hidden_layer(task: Task, units: int, fan_in: int, block: int) -> Layer:
    """A sparse layer, or a dense one where that costs no more bytes a row."""
    if fan_in * (block + 2) >= task.inputs * block:
        return dense(task.inputs, units)
    return sparse(task.inputs, units, fan_in, block)


def _network(
    task: Task,
    budget: int,
    learning: bool,
    batch: int,
    layers: tuple[Layer, ...],
    trunk: tuple[TrunkLayer, ...] = (),
) -> Network:
    return Network(
        shape=task.shape,
        classes=task.classes,
        layers=layers,
        names_bytes=task.names_bytes,
        groups=task.groups,
        task=task.kind,
        learning=learning,
        batch=batch if learning else 1,
        align=_align(budget),
        trunk=trunk,
    )


def _align(budget: int) -> int:
    return 64 if budget >= WIDE_ALIGN_FROM else 8


def _most_units(task: Task, budget: int, share: int, learning: bool, batch: int, limit: int) -> int:
    """Most hidden units whose file, aligned as for `budget`, has at most `share` bytes, or 0."""
    block = block_for(task)
    fan_in = fan_in_for(task.inputs, block)

    def fits(units: int) -> bool:
        layers = (hidden_layer(task, units, fan_in, block), dense(units, task.classes))
        return _network(task, budget, learning, batch, layers).file_bytes <= share

    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _smallest(task: Task, learning: bool) -> Network:
    """The smallest network worth training: one layer, each class looking at a few inputs."""
    block = block_for(task)
    fan_in = min(task.inputs, max(block, 8))
    layer = (
        dense(task.inputs, task.classes)
        if fan_in * (block + 2) >= task.inputs * block
        else sparse(task.inputs, task.classes, fan_in, block)
    )
    return _network(task, SMALLEST, learning, 1, (layer,))


def _linear(task: Task, budget: int, learning: bool) -> Network:
    """One layer with the largest fan-in that fits."""
    block = block_for(task)
    best = _smallest(task, learning)
    for fan_in in range(block, task.inputs + 1, block):
        if fan_in * (block + 2) < task.inputs * block:
            layer = sparse(task.inputs, task.classes, fan_in, block)
        else:
            layer = dense(task.inputs, task.classes)
        candidate = _network(task, budget, learning, 1, (layer,))
        if candidate.file_bytes <= budget:
            best = candidate
    return best


# ---- pictures: a trunk as wide as the bytes allow ----


@dataclass(frozen=True)
class Candidate:
    """A network that the planner may choose. `family` is None where a person named it."""

    network: Network
    family: Family | None

    @property
    def spec(self) -> str:
        """The network as text, for `--network`."""
        return spec_of(self.network)

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return self.network.file_bytes


def fitted(
    task: Task,
    budget: int,
    family: Family,
    *,
    learning: bool = True,
    most_operations: float = MOST_OPERATIONS,
) -> Candidate | None:
    """The widest network of a family in at most `budget` bytes; None where the narrowest is more.

    What only learning needs is counted, replay included.
    """
    share = budget - _replay_bytes(task, budget) if learning else budget
    most_weights = max(4096, WEIGHTS_PER_SAMPLE * task.samples)

    def made(channels: list[int], units: int, batch: int = 1) -> Network:
        trunk = family.trunk(task.shape, channels)
        layers = _behind(task, family, trunk, units, learning)
        return _network(task, budget, learning, batch, layers, trunk)

    def enough(network: Network) -> bool:
        return network.operations <= most_operations and network.connections <= most_weights

    def fits(channels: list[int], units: int, batch: int = 1) -> bool:
        try:
            network = made(channels, units, batch)
        except ValueError:  # wider than the format
            return False
        return network.file_bytes <= share and enough(network)

    def units_for(channels: list[int]) -> int:
        """Hidden units that take their share of the bytes, whatever the width."""
        if not family.hidden:
            return 0
        cost = unit_cost(family.trunk(task.shape, channels))
        return max(FEWEST_UNITS, min(MOST_HIDDEN, round(HIDDEN_SHARE * share / cost)))

    def unit_cost(trunk: tuple[TrunkLayer, ...]) -> float:
        first, head = _behind(task, family, trunk, 1, learning)
        rows = first.inference_bytes + head.weights + 1
        return rows + (first.weights + head.weights) / 2 + 8 if learning else rows

    def fits_at(width: int) -> bool:
        channels = family.channels(width)
        try:
            return fits(channels, units_for(channels))
        except ValueError:
            return False

    # Bytes grow with the square of the width or less: from a guess, not from the middle.
    low, high, guess = 0, MOST_WIDTH, 2 * CHANNELS
    while low < high:
        low, high = (guess, high) if fits_at(guess) else (low, guess - 1)
        middle = (low + high + 1) // 2
        guess = max(min(2 * low, middle), low + 1) if low else middle
    if not low:
        return None
    channels = family.channels(low)
    units = units_for(channels)
    batch = 1
    for wider in BATCHES if learning else ():
        more = made(channels, units, wider).file_bytes - made(channels, units).file_bytes
        if more > BATCH_SHARE * budget or not fits(channels, units, wider):
            break
        batch = wider
    # The last stages first: a channel there costs no row of a large map. Behind what learns nothing
    # there are no blocks of channels, so single ones fill up the rest.
    for more in (CHANNELS,) if learning or family.hidden else (CHANNELS, 1):
        for i in reversed(range(len(channels))):
            for _ in range(MOST_EXTRA):
                wider_stage = [*channels[:i], channels[i] + more, *channels[i + 1 :]]
                if not fits(wider_stage, units, batch):
                    break
                channels = wider_stage
    network = made(channels, units, batch)
    if family.hidden:
        # What is left over, as hidden units.
        low, high = units, MOST_HIDDEN
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(channels, middle, batch) else (low, middle - 1)
        network = made(channels, low, batch)
    if learning:
        network, _ = _with_replay(task, budget, network)
    return Candidate(network, family)


def _saturated(candidate: Candidate, task: Task, budget: int) -> bool:
    """Whether a much larger budget makes no larger network of this sort: the operations, or weights
    enough for the samples, and samples to remember, end before the bytes do."""
    if candidate.family is None:
        return False
    learning = candidate.network.learning
    more = fitted(task, MUCH_MORE * budget, candidate.family, learning=learning)
    return more is not None and more.spec == candidate.spec


@lru_cache(maxsize=256)
def candidates(
    task: Task, budget: int, *, learning: bool = True, most_operations: float = MOST_OPERATIONS
) -> tuple[Candidate, ...]:
    """Networks with a trunk for pictures, each of at most `budget` bytes, the likeliest first.

    None where the pictures or the budget are too small for a convolution, or the data no pictures.
    Where a network without a trunk does not fit either, there is one from `least_trunk` on: what is
    asked of a trunk would else leave out some budgets above others that work.
    """
    if task.kind != "picture" or task.groups != 1:
        return ()
    least = None
    if _smallest(task, learning).file_bytes > budget:
        least = least_trunk(task, learning=learning)
        if least is None or budget < least[0]:
            return ()
    found: dict[str, tuple[float, Candidate]] = {}
    for family in likely(task.shape):
        candidate = fitted(task, budget, family, learning=learning, most_operations=most_operations)
        if candidate is not None and _worth_it(candidate.network):
            error = expected_error(candidate.network, family)
            found.setdefault(candidate.spec, (error, candidate))
    if not found and least is not None and least[1].network.operations <= most_operations:
        return (_in_budget(task, budget, least[1]),)
    # Sums of logarithms may differ in their last bit from one library to the next.
    ranked = sorted(found.items(), key=lambda item: (round(item[1][0], 6), item[0]))
    return tuple(candidate for _, (_, candidate) in ranked)


def _worth_it(network: Network) -> bool:
    weights = sum(layer.weights for layer in network.trunk)
    return weights >= FEWEST_TRUNK_WEIGHTS[network.learning]


@lru_cache(maxsize=256)
def least_trunk(task: Task, *, learning: bool = True) -> tuple[int, Candidate] | None:
    """The least budget that a network with a trunk is planned for, and that network."""
    best: tuple[int, Candidate] | None = None
    for family in likely(task.shape):
        network = _narrowest(task, family, learning)
        if network is not None:
            budget = _budget_for(task, network)
            if best is None or budget < best[0]:
                best = budget, Candidate(network, family)
    if best is None:
        return None
    if best[0] >= WIDE_ALIGN_FROM:
        network = replace(best[1].network, align=_align(best[0]))
        best = _budget_for(task, network), replace(best[1], network=network)
    best = best[0], _in_budget(task, *best)
    # `fitted` puts extra channels where they still fit, which may do in fewer bytes.
    for family in likely(task.shape):

        def made(budget: int, family: Family = family) -> Candidate | None:
            candidate = fitted(task, budget, family, learning=learning)
            return candidate if candidate and _worth_it(candidate.network) else None

        if best[0] > SMALLEST and made(best[0] - 1) is not None:
            budgets = range(SMALLEST, best[0] - 1)
            budget = SMALLEST + bisect_left(budgets, True, key=lambda b: made(b) is not None)
            candidate = made(budget)
            assert candidate is not None
            best = budget, candidate
    return best


def _narrowest(task: Task, family: Family, learning: bool) -> Network | None:
    """The network of fewest bytes that is worth its trunk, over the widths of a family.

    Widths grow as in `fitted`: by the family's growth, then the last stages first.
    """
    most_weights = max(4096, WEIGHTS_PER_SAMPLE * task.samples)
    best: Network | None = None
    for width in range(1, MOST_WIDTH + 1):
        plain = channels = family.channels(width)
        if width > 1 and plain == family.channels(width - 1):
            continue
        steps = [channels]
        for more in (CHANNELS,) if learning or family.hidden else (CHANNELS, 1):
            for i in reversed(range(len(channels))):
                for _ in range(MOST_EXTRA):
                    channels = [*channels[:i], channels[i] + more, *channels[i + 1 :]]
                    steps.append(channels)
        for channels in steps:
            try:
                trunk = family.trunk(task.shape, channels)
                if sum(layer.weights for layer in trunk) < FEWEST_TRUNK_WEIGHTS[learning]:
                    continue
                layers = _behind(task, family, trunk, FEWEST_UNITS, learning)
                network = _network(task, SMALLEST, learning, 1, layers, trunk)
            except ValueError:  # no room for a sparse layer, or wider than the format
                continue
            if network.operations > MOST_OPERATIONS or network.connections > most_weights:
                break
            if best is None or network.file_bytes < best.file_bytes:
                best = network
            break
        if channels == plain:  # all further ones are wider
            return best
    return best


def _budget_for(task: Task, network: Network) -> int:
    """The least budget that holds a network, and where it learns its replay: the share that is
    meant for it, or less where that holds every sample."""
    if not network.learning:
        return network.file_bytes
    room = range(2 * network.file_bytes)
    shared = bisect_left(room, network.file_bytes, key=lambda b: b - _replay_bytes(task, b))
    held = min(task.samples, MAX_REPLAY_SAMPLES)
    return min(shared, replace(network, replay_bits=4, replay_samples=held).file_bytes)


def _in_budget(task: Task, budget: int, candidate: Candidate) -> Candidate:
    """A candidate of a smaller budget, aligned and with replay as in this one."""
    network = replace(candidate.network, replay_samples=0, replay_bits=0)
    aligned = replace(network, align=_align(budget))
    network = aligned if aligned.file_bytes <= budget else network
    if network.learning:
        network, _ = _with_replay(task, budget, network)
    return replace(candidate, network=network)


def named(task: Task, budget: int, text: str, *, learning: bool = True) -> Plan:
    """The network that a person wrote (`zgedge.spec`), with the learning state that it leaves open.

    Raises UsageError where the text is no network for these data, BudgetError, with the bytes that
    it takes, where it does not fit.
    """
    spec = parse(text, task.shape, task.classes)
    if spec.trunk and task.groups != 1:
        raise UsageError(
            f"The network has layers of pictures, and the data are a {task.kind}.",
            "Leave them out: s64:24 is a sparse layer, d32 a dense one.",
        )
    network = _of_spec(with_columns(task, budget), budget, spec, learning)
    if network.file_bytes > budget:
        network = _of_spec(task, budget, spec, learning)
    if network.file_bytes > budget:
        raise BudgetError(
            f"The network {text!r} takes {network.file_bytes:,} bytes; the budget is {budget:,}.",
            "Make it narrower, or the budget larger"
            + (", or add --no-learning." if learning else "."),
            smallest=network.file_bytes,
        )
    reasons = [("the network that was named", spec_of(network))]
    if learning and spec.replay is None:
        network, reason = _with_replay(task, budget, network)
        reasons = [("the network that was named", spec_of(network)), reason]
    reasons += _why_columns(task, network)
    return Plan(network, budget, False, tuple(reasons), fit_replay=spec.replay is None)


def _of_spec(task: Task, budget: int, spec: Spec, learning: bool) -> Network:
    """The network that a person wrote, which may take more than the budget."""
    network = _network(task, budget, learning, spec.batch or 1, spec.layers, spec.trunk)
    if network.file_bytes > budget:  # as a plan is that just fits
        network = replace(network, align=_align(SMALLEST))
    if learning and spec.batch is None:
        network = _with_batch(budget, network)
    if learning and spec.replay is not None:
        samples, bits, pool = spec.replay
        if pool and (spec.trunk or task.groups != 1):
            raise UsageError(
                "The replay puts 2 x 2 places together, and what it holds is no picture.",
                "Leave /2 out: behind layers of pictures, and of a table, values are remembered.",
            )
        network = replace(network, replay_samples=samples, replay_bits=bits, replay_pool=pool)
    return network


def _with_batch(budget: int, network: Network) -> Network:
    """The network with the largest batch to learn in that costs its share at most."""
    chosen = network
    for wider in BATCHES:
        candidate = replace(network, batch=wider)
        more = candidate.file_bytes - network.file_bytes
        if more > BATCH_SHARE * budget or candidate.file_bytes > budget:
            break
        chosen = candidate
    return chosen


def picture_plan(candidate: Candidate, task: Task, budget: int, why: tuple[str, str]) -> Plan:
    """The plan of a chosen network with a trunk. `why` says what it was chosen by."""
    network = candidate.network
    trunk = [x for x in network.trunk if x.has_weights]
    widths = " ".join(str(x.channels) for x in trunk)
    reasons = [
        why,
        (
            f"{len(trunk)} convolutions",
            f"of {widths} channels; {sum(x.weights for x in trunk):,} weights that all places "
            f"share, rows stream through {format_size(network.trunk_bytes)}",
        ),
    ]
    if candidate.family is not None:
        reasons.append((f"{network.features:,} features", _why_features(candidate.family)))
    for layer in network.layers:
        if layer.kind == net.SPARSE:
            what = f"{layer.outputs:,} sparse units, fan-in {layer.width:,} of {layer.inputs:,}"
            reasons.append(
                (what, "what a device rewires" if network.learning else "a share of all")
            )
    if network.learning:
        reasons.append(
            (f"learning in steps of {network.batch}", "what a tenth of the bytes allows")
        )
        less = "features, not pictures; what is left of the budget"
        reasons.append(_why_replay(task, network.replay_samples, less))
    else:
        reasons.append(("no learning", "asked for: weights, wiring and activations only"))
    saturated = _saturated(candidate, task, budget)
    if saturated:
        reasons.append(
            (
                f"{format_size(network.file_bytes)} of {format_size(budget)}",
                "saturated: this network would use no more bytes",
            )
        )
    return Plan(network, budget, saturated, tuple(reasons))


def _why_features(family: Family) -> str:
    if family.head in (MEAN, MEAN_HIDDEN):
        return "the mean of each channel over the picture"
    return "the last map as it is, place by place"


def _behind(
    task: Task, family: Family, trunk: tuple[TrunkLayer, ...], units: int, learning: bool
) -> tuple[Layer, ...]:
    """Layers behind a trunk. Where a device learns, one of them is sparse: it can rewire."""
    features, block = trunk[-1].outputs, block_of(trunk[-1])
    if family.hidden:
        fan_in = min(fan_in_for(features, block), features - block)
        return sparse(features, units, fan_in, block), dense(units, task.classes)
    if not learning:
        return (dense(features, task.classes),)
    fan_in = round(HEAD_DENSITY * features / block) * block
    return (sparse(features, task.classes, max(block, fan_in), block),)


def plan(task: Task, budget: int, *, learning: bool = True) -> Plan:
    """The network for a task in at most `budget` bytes, chosen by rule: nothing is trained.

    Raises BudgetError, with the smallest budget that works, where none fits.
    """
    found = candidates(task, budget, learning=learning)
    if found:
        return picture_plan(
            found[0], task, budget, (str(found[0].family), "likeliest by the prior")
        )
    try:
        planned = sparse_plan(task, budget, learning=learning)
    except BudgetError:
        raise too_small(task, budget, learning=learning) from None
    if task.kind != "picture":
        return planned
    return replace(planned, reasons=(("no convolution", _why_no_trunk(task)), *planned.reasons))


def smallest_budget(task: Task, *, learning: bool = True) -> int:
    """The least budget that `plan` takes, with or without a trunk: it takes all larger ones too."""
    smallest = _smallest(task, learning).file_bytes
    if task.kind == "picture" and task.groups == 1 and smallest > SMALLEST:
        least = least_trunk(task, learning=learning)
        smallest = smallest if least is None else min(smallest, least[0])
    return max(smallest, SMALLEST)


def too_small(task: Task, budget: int, *, learning: bool = True) -> BudgetError:
    """The error for a budget that no network fits in; it names the smallest that works."""
    without = smallest_budget(task, learning=False) if learning else None
    return _too_small(task, budget, smallest_budget(task, learning=learning), without)


def _too_small(task: Task, budget: int, smallest: int, without: int | None) -> BudgetError:
    hint = f"The smallest budget that works is {smallest:,} bytes"
    if without is not None and without < smallest:
        hint += f", or {without:,} with --no-learning"
    return BudgetError(
        f"{budget:,} bytes are too few for {task.inputs:,} inputs and {task.classes:,} classes.",
        hint + ".",
        smallest=smallest,
    )


def _why_no_trunk(task: Task) -> str:
    if min(task.shape[:2]) < SMALLEST_SIDE:
        return f"pictures of {task.shape[0]} x {task.shape[1]} have no room for a window"
    return "the budget has no room for one that would do better"


def sparse_plan(task: Task, budget: int, *, learning: bool = True) -> Plan:
    """The network without a trunk: a sparse hidden layer and a dense head, or one layer.

    Raises BudgetError, with the smallest budget that works without a trunk, where none fits.
    """
    if _smallest(task, learning).file_bytes > budget:
        smallest, without = (
            max(SMALLEST, _smallest(task, x).file_bytes) for x in (learning, False)
        )
        raise _too_small(task, budget, smallest, without if learning else None)
    of, task = task, with_columns(task, budget)
    if _smallest(task, learning).file_bytes > budget:
        task = of
    block = block_for(task)
    fan_in = fan_in_for(task.inputs, block)
    most_weights = max(4096, WEIGHTS_PER_SAMPLE * task.samples)
    limit = max(8, min(MAX_UNITS, math.ceil(most_weights / (fan_in + task.classes))))
    share = budget - _replay_bytes(task, budget) if learning else budget
    batch, units = 1, _most_units(task, budget, share, learning, 1, limit)
    for wider in BATCHES if learning else ():
        more = _most_units(task, budget, share, learning, wider, limit)
        if more >= 0.6 * _most_units(task, budget, share, learning, 1, limit):
            batch, units = wider, more
    reasons = []
    if units < min(MOST_OF_FEW, 1.2 * task.classes):
        chosen = _linear(task, budget, learning)
        layer = chosen.layers[0]
        reasons.append(
            (f"one {layer.kind} layer, fan-in {layer.width}", "no room for hidden units")
        )
        saturated = layer.width == task.inputs
    else:
        layer = hidden_layer(task, units, fan_in, block)
        chosen = _network(task, budget, learning, batch, (layer, dense(units, task.classes)))
        saturated = units == limit
        reasons.append(
            (
                f"{units:,} hidden units",
                f"more would not help {task.samples:,} samples" if saturated else "as many as fit",
            )
        )
        reasons.append(_why_connections(task, layer))
        reasons.append((f"dense head {units:,} x {task.classes:,}", "each class sees every unit"))
    if learning:
        reasons.append(
            (f"learning in steps of {chosen.batch}", "the most that leaves room for the units")
        )
        chosen, reason = _with_replay(task, budget, chosen)
        reasons.append(reason)
        saturated = saturated and chosen.replay_samples >= _most_replay(task)
    else:
        reasons.append(("no learning", "asked for: weights, wiring and activations only"))
    reasons += _why_columns(of, chosen)
    if saturated:
        reasons.append(
            (
                f"{format_size(chosen.file_bytes)} of {format_size(budget)}",
                "the task is saturated: more bytes would not be used",
            )
        )
    return Plan(chosen, budget, saturated, tuple(reasons))


def _why_connections(task: Task, layer: Layer) -> tuple[str, str]:
    if layer.kind == net.DENSE:
        return (f"dense, {layer.width:,} inputs a unit", "cheaper than indices at this fan-in")
    what = f"fan-in {layer.width:,} of {layer.inputs:,} ({layer.density:.1%})"
    if layer.block == 1:
        return (what, "one index a connection: columns next to each other need not belong together")
    return (
        f"{what}, in {layer.per_row} blocks of {layer.block}",
        "neighbours share an index: 1.5 bytes a connection instead of 3",
    )


def _replay_bytes(task: Task, budget: int) -> int:
    """What the replay may take: a share of the budget, or less where that holds every sample."""
    held = min(task.samples, MAX_REPLAY_SAMPLES)
    sample = (task.inputs + 1) // 2 + (2 if task.classes > 256 else 1)
    return min(math.floor(budget * REPLAY_SHARE), 2 * task.classes + held * sample + 64)


def _most_replay(task: Task) -> int:
    """Samples over which no budget remembers more."""
    return min(task.samples, MAX_REPLAY_SAMPLES, net.MAX_REPLAY)


def _why_replay(task: Task, samples: int, less: str) -> tuple[str, str]:
    """`less` says why there are not as many as are of use."""
    why = less
    if samples >= task.samples:
        why = "all of the training data"
    elif samples >= _most_replay(task):
        why = "more would slow each step"
    return f"replay of {samples:,} samples", why


def _with_replay(task: Task, budget: int, network: Network) -> tuple[Network, tuple[str, str]]:
    """The network with as much replay as is left, at 4 bits a value."""
    one = replace(network, replay_bits=4, replay_samples=1)
    room = budget - one.file_bytes
    if room < 0:
        return network, ("no replay", "no room for a remembered sample")
    samples = min(_most_replay(task), 1 + room // one.replay_sample_bytes)
    reason = _why_replay(task, samples, "what is left of the budget")
    return replace(one, replay_samples=samples), reason
