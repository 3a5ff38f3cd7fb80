"""The page that ranks the planner's choice."""

from __future__ import annotations

from zgedge.bench.choice import Row, Run, as_markdown


def row(who: str, *accuracies: float) -> Row:
    runs = (
        Run("d", 4096, False, f"{who} {accuracies}", 600, seed, 4000, 5, accuracy, 1.0)
        for seed, accuracy in enumerate(accuracies)
    )
    return Row(who, tuple(runs))


def told(*rows: Row) -> str:
    ranked = sorted(rows, key=lambda row: -row.accuracy)
    return as_markdown(ranked, "d", 4096, 600)[2]


def test_the_rank_and_whether_it_is_chance() -> None:
    chosen = row("chosen", 0.90, 0.91, 0.92)
    lucky, better = row("random", 0.99, 0.88, 0.93), row("random", 0.95, 0.961, 0.969)
    assert (
        told(chosen, row("random", 0.9, 0.9, 0.9)) == "**The planner's choice is number 1 of 2.**"
    )
    said = told(chosen, lucky, better)
    assert said.startswith("**The planner's choice is number 3 of 3.** Better by more than chance")
    assert said.endswith(": 1.")
    assert told(chosen, lucky).endswith("number 2 of 2.** Better by more than chance, paired over "
                                        "seeds at 95 %: 0.")  # fmt: skip
    assert told(row("chosen", 0.9), row("random", 0.95)) == (
        "**The planner's choice is number 2 of 2.**"
    )
