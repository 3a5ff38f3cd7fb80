"""Learner: a model that goes on learning, and rewires itself, inside its arena."""

from __future__ import annotations

import ctypes
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from zgedge import arena as files
from zgedge.errors import DataError, ModelError, UsageError
from zgedge.runtime import core_library as core
from zgedge.runtime.model import NUMBERS, Model

# The schedule of `Learner.anneal`, measured in docs/decisions.md.
ANNEAL_TO = 0.1
REWIRE_SHARE = 0.75
REWIRE_UNTIL = 0.6
REWIRE_GATHER = 16
NAME_HINT = "A name has a letter at least, and 24 bytes or the longest one of the training at most."
MOST_CAUTION = 6  # halvings of the rate (docs/guard.md)


class Learner:
    """Learns from labelled samples, one tick at a time (`core/zge.h`, zge_learner_step).

    The model's arena is changed in place; nothing else is. `save` writes it as a file.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str],
        *,
        rate: float | None = None,
        strategy: str | None = None,
        swaps: int | None = None,
        gather: int | None = None,
        keep: str | None = None,
    ) -> None:
        """Learn with `model`. Options left out are those that the file holds.

        rate      learning rate in units of the float network, 0 < rate <= 8
        strategy  rewiring: "rigl", "set", "hebbian", "three-factor", "attention" or "static"
                  (docs/strategies.md); attention needs a file that was planned with traces
        swaps     blocks replaced at each visit of a row, 0..255
        gather    samples whose gradient a row gathers before its visit, 1..4,096
        keep      which new samples a full replay takes: "fade", each, so that old ones go by and
                  by; or "reservoir", each with the chance that leaves every sample of the stream
                  as likely to be there (Vitter 1985), for worlds that come back

        Raises ModelError where the file was written with --no-learning, UsageError for a bad
        option.
        """
        self.model = model if isinstance(model, Model) else Model.open(model)
        network = self.model.arena.network
        if not network.learning:
            raise ModelError(
                f"{self.model.name}: {core.status_text(core.E_NO_LEARNING)}.",
                "Train it without --no-learning.",
                status=core.E_NO_LEARNING,
            )
        self.batch = network.batch
        self._config = core.Config()
        core.check(
            core.lib.zge_learner_config(self.model._handle, ctypes.byref(self._config)),
            self.model.name,
        )
        self.configure(rate=rate, strategy=strategy, swaps=swaps, gather=gather, keep=keep)
        self._index_labels()
        self._x_u8 = np.zeros((self.batch, self.model.inputs), np.uint8)
        self._x_f32 = np.zeros((self.batch, self.model.inputs), np.float32)
        self._y = np.zeros(self.batch, np.uint16)
        self._was = np.zeros(self.batch, np.int32)
        self._x_u8_at = ctypes.c_void_p(self._x_u8.ctypes.data)
        self._x_f32_at = ctypes.c_void_p(self._x_f32.ctypes.data)
        self._y_at = ctypes.c_void_p(self._y.ctypes.data)
        self._was_at = ctypes.c_void_p(self._was.ctypes.data)
        self.tick = core.Tick()
        self._tick_at = ctypes.c_void_p(ctypes.addressof(self.tick))

    def _index_labels(self) -> None:
        self._index = {label: i for i, label in enumerate(self.model._labels[:-1])}
        self._plain = self.model.int_classes and list(self._index) == list(range(len(self._index)))

    def configure(
        self,
        *,
        rate: float | None = None,
        strategy: str | None = None,
        swaps: int | None = None,
        gather: int | None = None,
        learn: str | None = None,
        keep: str | None = None,
        calm: int | None = None,
    ) -> None:
        """Change how it learns; the arena keeps it. `calm`: how often a guard that sees nothing to
        learn halves the rate, 0..6. Raises UsageError for a value out of range, and nothing is
        changed then."""
        c = core.Config.from_buffer_copy(self._config)
        if rate is not None:
            try:
                c.rate = float(rate)
            except (TypeError, ValueError) as e:
                raise UsageError(f"rate={rate!r} is not a number.") from e
        if strategy is not None:
            c.strategy = _number("strategy", strategy, files.STRATEGIES)
            if strategy == "attention" and not self.model.arena.network.traces:
                raise UsageError(
                    f"{self.model.name} has no room for the traces that attention learns with.",
                    "Train it with --rewire attention, or choose another strategy.",
                )
        if learn is not None:
            c.learn = _number("learn", learn, files.LEARN)
        if keep is not None:
            c.keep = _number("keep", keep, files.KEEP)
        if swaps is not None:
            c.swaps = _count("swaps", swaps)
        if gather is not None:
            c.gather = _count("gather", gather)
        if calm is not None and _count("calm", calm) > MOST_CAUTION:
            raise UsageError(f"calm={calm} is outside 0..{MOST_CAUTION}.")
        core.check(
            core.lib.zge_learner_configure(self.model._handle, ctypes.byref(c)),
            f"{self.model.name}: the learner's settings",
        )
        self._config = c
        if calm is not None:
            self.model.arena.set_calm(calm)

    @contextmanager
    def without_caution(self) -> Iterator[None]:
        """A run in which a guard judges as ever, but is not careful: what is given is there to be
        learned."""
        calm = self.model.arena.calm
        if not calm:
            yield
            return
        self.configure(calm=0)
        try:
            yield
        finally:
            self.configure(calm=calm)

    def anneal(self, done: float, *, rate: float = 0.5) -> None:
        """Set rate and swaps for a run of known length of which the share `done` (0..1) is over.

        The rate falls from `rate` to a tenth of it, by a constant factor a step; the blocks
        replaced at a visit fall from three quarters of a row's to none at 60 % of the run (the
        shape of RigL's schedule, Evci et al. 2020; the constants are measured,
        docs/decisions.md). A guard's caution divides this rate too; `without_caution` takes it
        away.
        """
        rows = [x.per_row for x in self.model.arena.network.layers if x.per_row]
        most = min(255.0, REWIRE_SHARE * max(rows)) if rows else 1.0
        left = 1 - done / REWIRE_UNTIL
        self.configure(
            rate=rate * ANNEAL_TO**done,
            swaps=max(1, round(most * left)) if left > 0 else 0,
            gather=REWIRE_GATHER,
        )

    def freeze(self, what: str = "all") -> None:
        """Stop learning: "all", or all "but head" (only the last layer goes on learning)."""
        modes = {"all": "none", "but head": "head"}
        if what not in modes:
            raise UsageError(f"Cannot freeze {what!r}.", "Freeze 'all' or 'but head'.")
        self.configure(learn=modes[what])

    def unfreeze(self) -> None:
        """Learn and rewire again."""
        self.configure(learn="all")

    def label_numbers(self, y: Any) -> npt.NDArray[np.uint16]:
        """Class numbers [n] of labels y [n]. Raises DataError for a label the model has not."""
        y = np.atleast_1d(np.asarray(y))
        if self._plain and y.dtype.kind in "iu":
            # Seen without its sign a negative label is a large one: one pass checks both ends.
            if len(y) and int(y.astype(np.uint64).max()) >= len(self._index):
                self._no_class(y[(y < 0) | (y >= len(self._index))][0].item())
            small: npt.NDArray[np.uint16] = y.astype(np.uint16)
            return small
        numbers = np.empty(len(y), np.uint16)
        for i, label in enumerate(y.tolist()):
            numbers[i] = self._label_number(label)
        return numbers

    def _label_number(self, label: Any) -> int:
        if isinstance(label, np.ndarray) and label.ndim == 0:
            label = label.item()
        try:
            number = self._index.get(label)
        except TypeError:  # a list, say
            self._no_class(label)
        if number is None and isinstance(label, str) and self.model.int_classes:
            digits = label[1:] if label.startswith("-") else label
            whole = digits.isascii() and digits.isdigit() and len(digits) < 40
            number = self._index.get(int(label)) if whole else None
        if number is None and not self.model.int_classes:
            number = self._index.get(str(label))
        if number is None:
            self._no_class(label)
        return number

    def _no_class(self, label: Any) -> NoReturn:
        raise DataError(f"The label {label!r} is not a class of {self.model.name}.", self._known())

    def _known(self) -> str:
        return f"Its classes are {', '.join(map(str, self.model._labels[:-1][:20]))}."

    def learn_one(self, x: Any, y: Any, *, replay: int | None = None) -> Any:
        """One tick: learn sample x [inputs] of label y together with `replay` remembered ones
        (as many as a batch has room for where it is None), rewire, remember it.

        Returns the label that was predicted before learning. Raises DataError for a wrong shape,
        NaN, infinities or a label that the model has not; nothing is learned then.
        """
        if type(x) is not np.ndarray or x.shape != self.model._shape or x.dtype.kind not in NUMBERS:
            x = self.model.rows(x[None] if isinstance(x, np.ndarray) else [x])[0]
        try:
            number = self._index.get(y)
        except TypeError:
            number = None
        self._y[0] = self._label_number(y) if number is None else number
        self._step(x, 1, self.batch - 1 if replay is None else _count("replay", replay))
        return self.model._labels[self._was[0]]

    def learn_many(self, x: Any, y: Any, *, replay: int = 0) -> npt.NDArray[Any]:
        """Learn samples x [n, inputs] of labels y [n] in batches, each with `replay` remembered.

        Returns the labels [n] that were predicted before learning. Raises as `learn_one` does,
        before anything is learned where it is the shape or a label; at the batch with NaN or
        infinities.
        """
        x = self.model.rows(x)
        numbers = self.label_numbers(y)
        if len(numbers) != len(x):
            raise DataError(f"There are {len(x)} samples and {len(numbers)} labels.")
        size = self.batch - _count("replay", replay)
        if size < 1:
            raise UsageError(f"replay={replay} is outside 0..{self.batch - 1}.")
        was = np.empty(len(x), np.int32)
        for at in range(0, len(x), size):
            part = x[at : at + size]
            n = len(part)
            self._y[:n] = numbers[at : at + size]
            self._step(part, n, replay)
            was[at : at + n] = self._was[:n]
        labels: npt.NDArray[Any] = self.model._label_array[was]
        return labels

    def _step(self, x: npt.NDArray[Any], n: int, replay: int) -> None:
        if x.dtype == np.uint8:
            self._x_u8[:n] = x
            status = core.lib.zge_learner_step_u8(
                self.model._handle, self._x_u8_at, self._y_at, n, replay, self._was_at,
                self._tick_at,
            )  # fmt: skip
        else:
            if x.dtype == np.float32:
                self._x_f32[:n] = x
            else:
                with np.errstate(over="ignore"):  # infinities are refused by the core
                    self._x_f32[:n] = x
            status = core.lib.zge_learner_step_f32(
                self.model._handle, self._x_f32_at, self._y_at, n, replay, self._was_at,
                self._tick_at,
            )  # fmt: skip
        if status:
            core.check(status, self.model.name)

    def hold(self, key: int | str, x: Any) -> Any:
        """Predict sample x [inputs] and keep it until its label comes (`settle`).

        key  its id: a whole number of 0..2^64 - 1, or a text, whose 64-bit hash counts. A sample
             of the same id is replaced; where the table is full the oldest one goes, and `status`
             counts it

        Returns the label predicted. Raises UsageError where no such table was planned
        (`zgedge train --pending N`) or for a bad id, DataError as `learn_one` does.
        """
        number = self._id(key)
        x = self.model.rows(x[None] if isinstance(x, np.ndarray) else [x])[0]
        if x.dtype == np.uint8:
            self._x_u8[0] = x
            status = core.lib.zge_learner_hold_u8(
                self.model._handle, number, self._x_u8_at, self._was_at
            )
        else:
            self._x_f32[0] = x
            status = core.lib.zge_learner_hold_f32(
                self.model._handle, number, self._x_f32_at, self._was_at
            )
        core.check(status, self.model.name)
        return self.model._labels[self._was[0]]

    def settle(self, key: int | str, y: Any, *, replay: int | None = None) -> Any:
        """Learn the sample that waits under the id `key`: its label is y. It waits no more.

        Returns the label that is predicted for it now, before learning. Raises DataError for an
        id that nothing waits under (counted in `status`), or a label that the model has not: the
        sample then still waits.
        """
        number = self._id(key)
        label = self._label_number(y)
        most = self.batch - 1 if replay is None else _count("replay", replay)
        status = core.lib.zge_learner_settle(
            self.model._handle, number, label, most, self._was_at, self._tick_at
        )
        if status == core.E_ID:
            raise DataError(
                f"No sample with the id {key!r} waits for its label.",
                "It was settled, never held, or went for a newer one.",
            )
        core.check(status, self.model.name)
        return self.model._labels[self._was[0]]

    def _id(self, key: int | str) -> int:
        if not self.model.arena.network.pending:
            raise UsageError(
                f"{self.model.name} has no table of samples that wait for their label.",
                "Train it with --pending N.",
            )
        try:
            return files.id_number(key)
        except (TypeError, ValueError) as e:
            raise UsageError(f"The id {key!r} is neither a text nor of 0..2^64 - 1.") from e

    def add_class(self, name: Any) -> int:
        """Name the next spare class; it is predicted from when it was learned. Returns its number.

        Raises UsageError where no room was planned for it (`zgedge train --spare-classes N`),
        DataError for a name that another class has or that is none.
        """
        network = self.model.arena.network
        text = str(name)
        if self.model.int_classes:
            try:
                text = str(files._integer(text))
            except ValueError as e:
                raise DataError(
                    f"The class {name!r} is no whole number, as those of {self.model.name} are.",
                    "Give a whole number that no class has yet, such as "
                    f"{max(map(int, self.model.classes.tolist()), default=-1) + 1}.",
                ) from e
        if text in map(str, self.model._labels):
            raise DataError(
                f"A class of {self.model.name} is called {text!r} already.", self._known()
            )
        known = len(self._index)
        if known == network.classes:
            raise UsageError(
                f"{self.model.name} has room for {network.classes} classes, and all have a name.",
                "Train it with --spare-classes N.",
            )
        number = ctypes.c_uint32()
        try:
            data = text.encode()
        except UnicodeEncodeError as e:
            raise DataError(f"The class {name!r} is no text.", NAME_HINT) from e
        try:
            core.check(
                core.lib.zge_learner_add_class(
                    self.model._handle, data, len(data), ctypes.byref(number)
                ),
                f"{self.model.name}: the class {text[:40]!r}",
            )
        except (DataError, UsageError) as e:
            raise type(e)(e.message, NAME_HINT) from None
        self.model.arena = files.Arena(self.model.arena.buffer)
        self.model._name_classes()
        self._index_labels()
        return number.value

    def solve(self, rounds: int = 64) -> None:
        """Let an analytic head solve for its weights now, `rounds` rounds (1..4,096) of the solve
        of which each tick does a part. Raises UsageError where the head is another."""
        if self.model.arena.network.head != "analytic":
            raise UsageError(
                f"{self.model.name} has no analytic head.", "Train it with --head analytic."
            )
        core.check(
            core.lib.zge_learner_solve(self.model._handle, _count("rounds", rounds)),
            f"{self.model.name}: rounds={rounds}",
        )

    def remember(self, x: Any, y: Any) -> None:
        """Store samples x [n, inputs] of labels y [n] in the replay without learning from them."""
        x = np.ascontiguousarray(self.model.rows(x), np.float32)
        numbers = self.label_numbers(y)
        if len(numbers) != len(x):
            raise DataError(f"There are {len(x)} samples and {len(numbers)} labels.")
        if len(x) == 0:
            return
        core.check(
            core.lib.zge_replay_store_f32(
                self.model._handle, x.ctypes.data, numbers.ctypes.data, len(x)
            ),
            self.model.name,
        )

    def forget(self) -> None:
        """Forget all remembered samples; the room stays."""
        core.check(core.lib.zge_replay_clear(self.model._handle), self.model.name)

    def strip(self) -> None:
        """Take out every sample: remembered ones, anchors, and those that wait for their label. The
        guard is off until there are anchors again, from the stream."""
        self.forget()
        self.model.arena.clear_anchors()
        self.model.arena.clear_pending()

    def watch(self, x: Any) -> Any:
        """Predict sample x [inputs] without a label and watch for drift by it alone.

        `tick.drift` is 1 where a warning begins. Returns the label that is predicted, or
        "unknown". Raises DataError for a wrong shape, NaN or infinities.
        """
        if type(x) is not np.ndarray or x.shape != self.model._shape or x.dtype.kind not in NUMBERS:
            x = self.model.rows(x[None] if isinstance(x, np.ndarray) else [x])[0]
        self.tick.drift = 0
        drift_at = ctypes.addressof(self.tick) + core.Tick.drift.offset
        if x.dtype == np.uint8:
            self._x_u8[0] = x
            call, at = core.lib.zge_learner_watch_u8, self._x_u8_at
        else:
            with np.errstate(over="ignore"):  # infinities are refused by the core
                self._x_f32[0] = x
            call, at = core.lib.zge_learner_watch_f32, self._x_f32_at
        core.check(call(self.model._handle, at, self._was_at, drift_at), self.model.name)
        return self.model._labels[self._was[0]]

    def accept(self) -> None:
        """Take the present state as the accepted one. Raises ModelError without anchors."""
        self._decide(core.lib.zge_learner_accept(self.model._handle))

    def rollback(self) -> None:
        """Go back to the state accepted last. Raises ModelError in a file without anchors."""
        self._decide(core.lib.zge_learner_rollback(self.model._handle))

    def _decide(self, status: int) -> None:
        if status == core.E_NO_GUARD and self.model.arena.network.head == "analytic":
            raise ModelError(
                f"{self.model.name}: {core.status_text(status)}.",
                "Files with an analytic head have no guard: train it with --head softmax.",
                status=status,
            )
        core.check(status, self.model.name)

    def status(self) -> dict[str, Any]:
        """Counters and settings, as the arena holds them.

        With a watch also `epoch`, `drift` (level and counts) and `plasticity` (1 after drift, 0 in
        quiet); `guard` ("on", or "off" with too few anchors), `anchors`, `anchors_right`, `best`
        of this epoch, and `smallest_drop`, the points of accuracy that it can see.
        """
        state = {**(self.model.arena.learner() or {}), **(self.model.arena.watch() or {})}
        state |= self.model.arena.pending()
        analytic = self.model.arena.analytic()
        if analytic is not None:
            state |= {"solved": analytic["rounds"], "counted": int(analytic["counts"].sum())}
        return state

    def seal(self) -> None:
        """See `Model.seal`."""
        self.model.seal()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the arena as a file, atomically. Raises ZgedgeError where that fails."""
        self.model.save(path)


def _count(what: str, value: Any) -> int:
    """A whole number that the core can take; it knows the range."""
    try:
        number = operator.index(value)
    except TypeError as e:
        raise UsageError(f"{what}={value!r} is not a whole number.") from e
    if not 0 <= number < 1 << 32:
        raise UsageError(f"{what}={value!r} is outside its range.")
    return number


def _number(what: str, value: str, of: tuple[str, ...]) -> int:
    if value not in of:
        raise UsageError(f"{what}={value!r} is none of {', '.join(of)}.")
    return of.index(value)
