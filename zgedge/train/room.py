"""A network and, in the same budget, room for classes and samples that come later.

What that room takes depends on the network, so a share of the budget is looked for of which the
network that is planned leaves enough. Plans without trials tell that in a tenth of a second; the
trials of a search come once the share is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from zgedge.budget import LARGEST, SMALLEST
from zgedge.errors import BudgetError
from zgedge.network import Network
from zgedge.train.search import Choice
from zgedge.train.spare import room_for

Fits = Callable[[Network], bool]
# Given bytes, the seconds that are left, and which networks to try; None: nothing is tried.
Choose = Callable[[int, float | None, Fits | None], Choice]
# The same network in at most so many bytes.
Shrink = Callable[[Choice, int], Choice]

# Shares that are tried one after the other, each less by what the room of the last one took.
FALLING = 5
# Shares between the smallest and what it takes with its room, and how often the gaps beside the
# best of them are halved.
SPREAD, HALVINGS = 8, 3
# Shares under what the planner counts on, in parts of that: small tasks work in them.
LOW = (0.25, 0.35, 0.5, 0.7)
# A part of the budget that is not worth another plan.
SLACK = 64


def with_room(
    choose: Choose,
    shrink: Shrink,
    size: int,
    names: tuple[str, ...],
    spare: int,
    pending: int,
    seconds: float | None,
) -> Choice:
    """What is chosen for `size` bytes less what more classes and waiting samples take of them.

    `names` are those of the classes, `seconds` the time that trials may take. Raises BudgetError,
    with a budget that was seen to be enough, where nothing fits.
    """
    if not spare and not pending:
        return choose(size, seconds, lambda network: True)
    shares = _Shares(choose, names, spare, pending)
    share = sure = shares.share_for(size)

    def fits(network: Network) -> bool:
        """Whether its replay can give up the bytes that it is over."""
        least = replace(network, replay_samples=min(1, network.replay_samples))
        return shares.total_of(least) <= size

    # Time is counted by what trials took: a search that goes on then finds them.
    spent, took = 0.0, shares.took
    for _ in range(FALLING):
        left = None if seconds is None else max(0.0, seconds - spent)
        try:
            chosen = choose(share, left, None if left == 0.0 else fits)
        except BudgetError:
            break
        spent, took = spent + chosen.spent, took + chosen.seconds
        kept = _kept(chosen, shrink, size, shares.total_of)
        if kept is not None:
            return replace(kept, seconds=took, spent=spent)
        share = min(share - 1, size - shares.total_of(chosen.plan.network) + chosen.plan.bytes)
        if share < 1:
            break
    return replace(choose(sure, None, None), seconds=took, spent=spent)


def _kept(
    chosen: Choice, shrink: Shrink, size: int, total_of: Callable[[Network], int]
) -> Choice | None:
    """What was chosen, with fewer remembered samples where its room takes more than was left for
    it; None where these are too few for that."""
    for _ in range(FALLING):
        over = total_of(chosen.plan.network) - size
        if over <= 0:
            return chosen
        try:
            chosen = shrink(chosen, chosen.plan.bytes - over)
        except BudgetError:
            break
    return None


class _Shares:
    """What is planned without trials for shares of a budget, and the bytes of it with its room."""

    def __init__(self, choose: Choose, names: tuple[str, ...], spare: int, pending: int) -> None:
        self._choose = choose
        self._names, self._spare, self._pending = names, spare, pending
        self._totals: dict[int, int | None] = {}
        self._bytes: dict[int, int] = {}
        self._errors: dict[int, BudgetError] = {}
        self.took = 0.0

    def total_of(self, network: Network) -> int:
        """Bytes of a network with its room."""
        return network.file_bytes + room_for(network, self._names, self._spare, self._pending)

    def total(self, share: int) -> int | None:
        """Bytes of what is planned for a share, with its room; None where nothing fits it."""
        if share not in self._totals:
            try:
                chosen = self._choose(share, None, None)
            except BudgetError as error:
                self._errors[share] = error
                self._totals[share] = None
            else:
                self.took += chosen.seconds
                self._bytes[share] = chosen.plan.bytes
                self._totals[share] = self.total_of(chosen.plan.network)
        return self._totals[share]

    def share_for(self, size: int) -> int:
        """A share of `size` bytes that leaves the room of its network, and few bytes besides.

        Raises BudgetError where there is none; every size from what it names on has one.
        """
        share = size
        for _ in range(FALLING):
            total = self.total(share)
            if total is None:
                error = self._errors[share]
                if share == size and error.smallest is None:
                    raise error  # no room that is missing, such as a latency that nothing meets
                break
            if total <= size:
                break
            share = min(share - 1, size - total + self._bytes[share])
            if share < 1:
                break
        if not self._fit(share, size):
            least = self._least()
            if least is None or least > size:
                raise self._too_few(size, least)
        return self._widest(size)

    def _fit(self, share: int, size: int) -> bool:
        total = self._totals.get(share)
        return total is not None and total <= size

    def _widest(self, size: int) -> int:
        """The largest share that fits, between what is known of it."""
        low = max(share for share in self._totals if share <= size and self._fit(share, size))
        high = min((s for s in self._totals if low < s <= size), default=low)
        while high - low > size // SLACK and size - (self.total(low) or 0) > size // SLACK:
            middle = (low + high) // 2
            self.total(middle)
            low, high = (middle, high) if self._fit(middle, size) else (low, middle)
        return low

    def _least(self) -> int | None:
        """The least budget found that is enough. It is looked for in the same shares whatever the
        budget is: what is named as enough in one error is found again when it is given."""
        seen: dict[int, float] = {}

        def look(share: int) -> None:
            total = self.total(share)
            seen[share] = math.inf if total is None else max(share, total)

        look(SMALLEST)
        start: int | None = SMALLEST
        if SMALLEST in self._errors:
            start = self._errors[SMALLEST].smallest
        if start is None:  # nothing so small is as fast as asked
            start, top = SMALLEST, float(LARGEST)
        else:
            look(start)
            top = max(2.0 * start, seen[start] if seen[start] < math.inf else 0.0)
        if start == SMALLEST:
            for part in LOW:
                look(int(part * SMALLEST))
        for k in range(1, SPREAD + 1):
            share = round(start * (top / start) ** (k / SPREAD))
            if share >= min(seen.values()):
                break
            look(share)
        if min(seen.values()) == math.inf:
            return None
        for _ in range(HALVINGS):
            best = min(seen, key=lambda share: (seen[share], share))
            below = max((share for share in seen if share < best), default=best)
            above = min((share for share in seen if share > best), default=best)
            for share in {(below + best) // 2, (best + above) // 2} - {best, below}:
                look(share)
        return round(min(seen.values()))

    def _too_few(self, size: int, least: int | None) -> BudgetError:
        known = [max(s, total) for s, total in self._totals.items() if total is not None]
        if least is None and not known:
            return self._errors[size]
        enough = max(SMALLEST, min(known) if least is None else least)
        return BudgetError(
            f"{size:,} bytes are too few for {self._spare:,} spare classes and {self._pending:,} "
            "samples that wait.",
            f"A budget of {enough:,} bytes is enough.",
            smallest=enough,
        )
