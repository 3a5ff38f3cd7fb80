"""Drift and guard of the second learner, in Python integers, written from docs/arithmetic.md."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zgedge import arena as files
from zgedge import network as net
from zgedge.arena import Arena

if TYPE_CHECKING:
    from tests.core.reference import Learner

ONE, LENGTH = 65536, 2000
WATCH = struct.Struct("<IHHIfIIIIIIQQQQQQII")
DETECTOR = struct.Struct("<IIQII")
HEAD = struct.Struct("<IIII")

Ints = npt.NDArray[np.int64]


def towards_zero(a: int, b: int) -> int:
    return -(-a // b) if a < 0 else a // b


def blend(now: int, value: int, share: int) -> int:
    return now + towards_zero(value - now, share)


@dataclass
class Detector:
    """Page-Hinkley for a rise of the mean, in 16.16 fixed point."""

    passes: int
    bound: int
    seen: int = 0
    held: int = 0
    total: int = 0
    excess: int = 0

    def feed(self, value: int) -> None:
        if self.held:
            self.held -= 1
            return
        if self.seen >= 1 << 24:
            self.seen //= 2
            self.total //= 2
        self.seen += 1
        self.total += value
        self.excess = max(0, self.excess + value - self.total // self.seen - self.passes)
        if self.seen >= 30 and self.excess > self.bound:
            self.clear()
            self.held = 256

    def clear(self) -> None:
        self.seen = self.held = self.total = self.excess = 0

    @property
    def suspects(self) -> bool:
        return self.held > 0 or (self.seen >= 30 and self.excess > self.bound // 2)


@dataclass
class Anchor:
    label: int
    codes: Ints  # features as they come back from their packing
    was: bool = False
    now: bool = False


@dataclass
class State:
    """What learns: v, the wiring and the biases of each layer."""

    layers: list[tuple[Ints, Ints, Ints]] = field(default_factory=list)


class Guard:
    """Reads the sections of drift and guard; `tick` does what the end of a step does."""

    def __init__(self, learner: Learner, a: Arena) -> None:
        self.learner = learner
        self.on = a.network.watch
        self.room = a.network.anchors
        self.anchors: list[Anchor] = []
        self.trial: list[Anchor] = []
        self.in_trial = 0
        self.caution = 0
        if not self.on:
            return
        section = a.section(net.WATCH)
        (
            self.epoch, trial, self.caution, self.age, rate, self.best, self.limit, self.scored,
            self.patience, self.certainty, self.recent, self.warnings, self.confirmed,
            self.accepted, self.rolled_back, self.rejected, self.watched, self.usual, self.calm,
        ) = WATCH.unpack_from(section.data)  # fmt: skip
        self.in_trial = trial
        self.rate = np.float32(rate)
        self.errors = Detector(3277, 15 * ONE, *DETECTOR.unpack_from(section.data, 96)[:4])
        self.doubts = Detector(1311, 8 * ONE, *DETECTOR.unpack_from(section.data, 120)[:4])
        self.cursor = 0
        if not self.room:
            return
        anchors = a.section(net.ANCHORS)
        _, filled, self.cursor, tried = HEAD.unpack_from(anchors.data)
        for slot in [*range(filled), *range(self.trial_from, self.trial_from + tried)]:
            label, flags, codes = self._slot(a, slot)
            anchor = Anchor(label, codes, bool(flags & 1), bool(flags & 2))
            (self.anchors if slot < filled else self.trial).append(anchor)
        self.snapshot = self._read_snapshot(a)

    @property
    def trial_from(self) -> int:
        return max(0, self.room - max(32, self.room // 4))

    def _slot(self, a: Arena, slot: int) -> tuple[int, int, Ints]:
        n = a.network
        section = a.section(net.ANCHORS)
        wide = 2 if n.classes > 256 else 1
        labels = section[16 : 16 + wide * self.room].view("<u2" if wide == 2 else np.uint8)
        flags = section[16 + wide * self.room :][: self.room]
        data = section[16 + (wide + 1) * self.room :].reshape(self.room, n.replay_stride)
        codes = files.unpack_codes(data[slot : slot + 1], n.sample_bits, n.replay_values)
        if n.replay_pool:
            codes = files.spread_codes(codes, n.shape)
        return int(labels[slot]), int(flags[slot]), codes[0].astype(np.int64)

    # ---- how a step learns ----

    def pace(self) -> tuple[np.float32, int, int]:
        me = self.learner
        rate, swaps, gather = me.rate, me.swaps, me.gather
        if not self.on:
            return rate, swaps, gather
        if self.age < LENGTH:
            row = max((x.spec.per_row for x in me.layers), default=0)
            most = min(255, row * 3 // 4)
            left = 1200 - self.age
            plastic = max(1, (most * left + 600) // 1200) if left > 0 else 0
            rate, swaps, gather = max(self.rate, rate), plastic if swaps else 0, 16
        if self.caution:
            rate, swaps = np.float32(rate / np.float32(1 << self.caution)), 0
        return rate, swaps, gather

    def hold(self, labels: list[int]) -> list[int]:
        """Which of the new samples are held back; their anchors are there, without codes."""
        from tests.core.reference import below, random, stream

        self.fresh: dict[int, Anchor] = {}
        self.lacked: list[int] = []  # classes of samples held back that lacked anchors
        if not self.room:
            return []
        base = stream(self.learner.key, self.learner.now, 5)
        pool = self.trial if self.in_trial else self.anchors
        before = len(pool)
        most = self.room - self.trial_from if self.in_trial else self.limit
        balanced = not self.in_trial and before >= 100 and self.calm
        for c, label in enumerate(labels):
            rare = balanced and self._lacks(label)
            if (len(pool) >= most and not rare) or below(random(base, c), 2 if rare else 8):
                continue
            self.fresh[c] = Anchor(label, np.empty(0, np.int64))
            if len(pool) < most:
                pool.append(self.fresh[c])
            else:
                slot = self._dispensable(pool[:before], below(random(base, 64 + c), before))
                self.best = max(0, self.best - pool[slot].was)
                pool[slot] = self.fresh[c]
            if rare:
                self.lacked.append(label)
        return list(self.fresh)

    def _lacks(self, label: int) -> bool:
        mine = sum(x.label == label for x in self.anchors)
        return 2 * mine < min(len(self.anchors) // self.learner.network.classes, 32)

    def _novel(self, label: int) -> bool:
        mine = [x.was for x in self.anchors if x.label == label]
        return not self._lacks(label) and 2 * sum(mine) < len(mine)

    @staticmethod
    def _dispensable(pool: list[Anchor], slot: int) -> int:
        counts = Counter(x.label for x in pool)
        fullest = min(k for k, count in counts.items() if count == max(counts.values()))
        while pool[slot].label != fullest:
            slot = (slot + 1) % len(pool)
        return slot

    def add(self, codes: Ints, c: int) -> None:
        self.fresh[c].codes = codes

    # ---- the end of a step ----

    def feed(self, correct: bool, score: int, share: int) -> int:
        """One labelled sample for the detectors."""
        before = self.suspects
        doubt = ONE + (self.certainty or ONE) - 2 * score + share
        self.errors.feed(0 if correct else ONE)
        self.doubts.feed(doubt)
        self.recent = blend(self.recent, ONE * correct, 32)
        usual = self.usual
        if not self.errors.held and self.age == LENGTH:
            self.usual = blend(self.usual, ONE * correct, 1024)
        strange = self.doubts.held and self.certainty
        if self.errors.held and (strange or self.recent < usual // 3):
            return 2
        some = self.errors.seen >= 30 and self.errors.excess > 5 * ONE
        if self.strange and self.doubts.held <= 192 and self.age > 1000 and some:
            return 2
        return self._warned(before)

    @property
    def strange(self) -> bool:
        return bool(self.calm and self.certainty and self.doubts.held)

    @property
    def suspects(self) -> bool:
        return self.errors.suspects or self.doubts.suspects

    def _warned(self, before: bool) -> int:
        if self.suspects and not before:
            self.warnings += 1
            return 1
        return 0

    def watch(self, winner_score: int, clamped: int) -> int:
        """A sample without a label."""
        if not self.on:
            return 0
        before = self.suspects
        share = (min(clamped, self.learner.network.inputs) << 16) // self.learner.network.inputs
        self.doubts.feed(ONE + (self.certainty or ONE) - 2 * winner_score + share)
        self.watched += 1
        return self._warned(before)

    def tick(
        self, answers: list[tuple[int, int]], labels: list[int], held: list[int], columns: Ints,
        clamped: int,
    ) -> tuple[int, int]:  # fmt: skip
        """Drift and guard of a step: `answers` are winner and score of each new sample as they
        were before it was learned, `columns` their features [features, n]."""
        if not self.on:
            return 0, 0
        all_ = len(labels) * self.learner.network.inputs
        share = (min(clamped, all_) << 16) // all_
        found = [
            self.feed(winner == label, score, share)
            for (winner, score), label in zip(answers, labels, strict=True)
        ]
        drift = max(found)
        if self.age < LENGTH:
            self.age += 1
            self.rate = np.float32(self.rate * np.float32(0.99884936))
            if self.age == LENGTH:
                self.quiet()
        guard, novel = 0, False
        if self.room:
            if held:
                self._score_held(held, columns)
                if self.age > 1000 and any(self._novel(label) for label in self.lacked):
                    novel = True
                    self._start(1000, 0.15811388)
            self._score_some()
            guard = self._judge() if self.in_trial else self._decide()
        if drift == 2:
            if self.in_trial:
                drift = 0
            else:
                self._drift()
        return 2 if novel else drift, guard

    def quiet(self) -> None:
        self.age, self.rate, self.usual = LENGTH, np.float32(0), self.recent
        self.errors.clear()
        self.doubts.clear()

    def _score_held(self, held: list[int], columns: Ints) -> None:
        new = list(self.fresh.values())
        for anchor, (winner, _) in zip(new, self.learner.answers(columns[:, held]), strict=True):
            anchor.now = winner == anchor.label
        live = self.state()
        self.restore(self.snapshot)
        for anchor, (winner, _) in zip(new, self.learner.answers(columns[:, held]), strict=True):
            anchor.was = winner == anchor.label
            if anchor.was and not self.in_trial:
                self.best = min(self.best + 1, len(self.anchors))
        self.restore(live)

    def _score_some(self) -> None:
        pool = self.trial if self.in_trial else self.anchors
        n = min(8, self.learner.network.batch, len(pool))
        if not n:
            return
        at = self.cursor
        chosen = []
        for _ in range(n):
            at = at if at < len(pool) else 0
            chosen.append(pool[at])
            at += 1
        self.cursor = at if at < len(pool) else 0
        answers = self.learner.answers(np.stack([x.codes for x in chosen], 1))
        for anchor, (winner, _) in zip(chosen, answers, strict=True):
            anchor.now = winner == anchor.label
        self.scored = min(65535, self.scored + n)
        sure = sum(2 * score for _, score in answers) // n
        self.certainty = blend(self.certainty, sure, 16) if self.certainty else sure

    @staticmethod
    def _tally(pool: list[Anchor]) -> tuple[int, int, int]:
        """Right now; won and lost since the accepted state."""
        return (
            sum(x.now for x in pool),
            sum(x.now and not x.was for x in pool),
            sum(x.was and not x.now for x in pool),
        )

    def _decide(self) -> int:
        n = len(self.anchors)
        cycled = self.scored >= max(n, 100)
        now, won, lost = self._tally(self.anchors)
        if n < 100:
            if cycled:
                self.accept(now)
            return 0
        margin = 0
        if self.age < LENGTH:
            margin = max(math.isqrt(4 * self.best * (n - self.best) // n), n // 100) // 2
        below = now + margin < self.best
        if cycled and not below:
            self.accept(max(self.best, now))
            gains = won > lost and (won - lost) ** 2 > 4 * (won + lost)
            calm = 0 if gains else self.calm
            if self.caution > calm:
                self.caution -= 1
            elif self.caution < calm and self.age == LENGTH:
                self.caution += 1
            self.accepted += 1
            return 1
        clear = lost > won and (lost - won) ** 2 > 4 * (won + lost)
        if cycled:
            self.patience += 1
            self.scored = 0
        if below and (clear or self.patience == 4):
            if self.age < LENGTH and not self.patience and self.calm:
                for x in self.anchors:
                    x.was = x.was and x.now
            self.rollback()
            self.caution = min(6, self.caution + (self.age == LENGTH))
            self.rolled_back += 1
            return 2
        return 0

    def _judge(self) -> int:
        n = len(self.trial)
        over = self.age == LENGTH
        if n < 32 and not over:
            return 0
        now, won, lost = self._tally(self.trial)
        clear = (won - lost) ** 2 > 9 * (won + lost)
        enough = now * len(self.anchors) >= n * self.best // (4 if over else 2)
        if n >= 32 and (clear or (over and self.in_trial == 2)) and won > lost and enough:
            self.end_trial()
            self.accepted += 1
            return 1
        if over or (clear and lost > won):
            self.reject()
            return 2
        return 0

    def end_trial(self) -> None:
        self.anchors, self.trial, self.in_trial = self.trial, [], 0
        self._open_epoch()

    def reject(self) -> None:
        self.trial, self.in_trial, self.cursor = [], 0, 0
        self.limit = len(self.anchors)
        self.best = sum(x.was for x in self.anchors)
        self.rollback()
        self.quiet()
        self.caution = self.calm if len(self.anchors) >= 100 else 0
        self.rejected += 1

    def _start(self, age: int, rate: float) -> None:
        self.errors.clear()
        self.doubts.clear()
        self.age, self.rate, self.caution = age, np.float32(rate), 0
        self.confirmed += 1

    def _drift(self) -> None:
        strange = self.strange
        if strange and not self.errors.held:
            self._start(1000, 0.15811388)
        else:
            self._start(0, 0.5)
        n = len(self.anchors)
        if n < 100:
            self.anchors = []
            self._open_epoch()
            return
        self.in_trial, self.trial = 2 if strange else 1, []
        self.scored = self.patience = self.cursor = 0
        if n > self.trial_from:
            self.anchors = self.anchors[: self.trial_from]
            self.best = self.best * self.trial_from // n

    def _open_epoch(self) -> None:
        self.epoch += 1
        if self.room:
            self.limit, self.cursor = self.room, 0
            self.accept(sum(x.now for x in self.anchors))

    def accept(self, best: int) -> None:
        for x in self.anchors:
            x.was = x.now
        self.best, self.scored, self.patience = best, 0, 0
        self.snapshot = self.state()

    def rollback(self) -> None:
        for x in self.anchors:
            x.now = x.was
        self.scored = self.patience = 0
        self.learner.restart()
        self.restore(self.snapshot)

    def state(self) -> State:
        return State([(x.v.copy(), x.inputs_of.copy(), x.bias.copy()) for x in self.learner.layers])

    def restore(self, state: State) -> None:
        for layer, (v, inputs_of, bias) in zip(self.learner.layers, state.layers, strict=True):
            layer.v, layer.inputs_of, layer.bias = v.copy(), inputs_of.copy(), bias.copy()

    # ---- bytes ----

    def _read_snapshot(self, a: Arena) -> State:
        raw = a.section(net.SNAPSHOT)
        at = 0

        def take(n: int) -> npt.NDArray[np.uint8]:
            nonlocal at
            at += n
            return raw[at - n : at]

        specs = a.network.layers
        biases = [take(4 * s.outputs).view("<i4").astype(np.int64) for s in specs]
        indices = [take(2 * s.indices).view("<u2") for s in specs]
        weights = [take(s.weights).view(np.int8).astype(np.int64) for s in specs]
        layers = []
        for s, bias, index, w in zip(specs, biases, indices, weights, strict=True):
            shape = (s.outputs, s.width)
            inputs_of = np.tile(np.arange(s.inputs), (s.outputs, 1))
            if s.per_row:
                blocks = (index & ((1 << s.index_bits) - 1)).astype(np.int64)
                inputs_of = (blocks[:, None] * s.block + np.arange(s.block)).reshape(shape)
            if s.residual_in_index:
                e = index.view(np.int16).astype(np.int64) >> 12
            else:
                part = take((s.weights + 1) // 2)
                both = np.stack([part & 15, part >> 4], 1).reshape(-1)[: s.weights]
                e = (both.astype(np.int64) ^ 8) - 8
            layers.append(((16 * w + e).reshape(shape), inputs_of, bias.copy()))
        return State(layers)

    def check(self, a: Arena) -> None:
        """Assert that an arena holds what this holds."""
        if not self.on:
            return
        section = a.section(net.WATCH)
        blob = WATCH.pack(
            self.epoch, self.in_trial, self.caution, self.age, self.rate, self.best, self.limit,
            self.scored, self.patience, self.certainty, self.recent, self.warnings, self.confirmed,
            self.accepted, self.rolled_back, self.rejected, self.watched, self.usual, self.calm,
        )  # fmt: skip
        for d in (self.errors, self.doubts):
            blob += DETECTOR.pack(d.seen, d.held, d.total, d.excess, 0)
        names = WATCH.unpack_from(section.data), WATCH.unpack_from(blob)
        self._check_anchors(a)
        assert bytes(section) == blob, f"the watch: {names}"

    def _check_anchors(self, a: Arena) -> None:
        if not self.room:
            return
        head = HEAD.unpack_from(a.section(net.ANCHORS).data)
        assert head == (self.room, len(self.anchors), self.cursor, len(self.trial))
        for first, pool in ((0, self.anchors), (self.trial_from, self.trial)):
            for i, x in enumerate(pool):
                label, flags, codes = self._slot(a, first + i)
                assert (label, flags) == (x.label, x.was + 2 * x.now), f"anchor {first + i}"
                assert np.array_equal(codes, x.codes), f"anchor {first + i}"
        found = self._read_snapshot(a)
        for mine, there in zip(self.snapshot.layers, found.layers, strict=True):
            assert all(np.array_equal(p, q) for p, q in zip(mine, there, strict=True)), "snapshot"


def anchors_of(
    network: net.Network, x: npt.NDArray[Any], y: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Anchors for tests: any features, any labels, any bits."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (len(x), network.features), dtype=np.uint8)
    return codes, y, rng.random(len(y)) < 0.7
