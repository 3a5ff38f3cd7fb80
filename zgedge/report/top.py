"""One frame of `zgedge top`: a service's status as lines of text."""

from __future__ import annotations

import time
from typing import Any

from zgedge.budget import format_size
from zgedge.report.screen import counted

Spans = list[tuple[str, str]]

_EIGHTHS = "▁▂▃▄▅▆▇█"
_ASCII = "_.:-=+*#"
BAR = 30


def spark(values: list[float | None], low: float, high: float, width: int, unicode: bool) -> str:
    """Values as one character each, the newest on the right; a space where there is none."""
    marks = _EIGHTHS if unicode else _ASCII
    out = []
    for value in values[-width:]:
        if value is None:
            out.append(" ")
            continue
        share = (value - low) / (high - low) if high > low else 0.0
        out.append(marks[min(7, max(0, int(share * 8)))])
    return "".join(out)


def bar(share: float, unicode: bool) -> str:
    full = round(BAR * min(1.0, max(0.0, share)))
    return ("█" if unicode else "#") * full + ("░" if unicode else ".") * (BAR - full)


def frame(s: dict[str, Any], width: int, unicode: bool = True) -> list[Spans]:
    """Lines of (text, style) for a status with its history, each at most `width` wide."""
    lines: list[Spans] = []

    def row(name: str, *spans: tuple[str, str]) -> None:
        lines.append(_cut([(f"{name:<10}", "bold"), *spans], width))

    learning = s["learning"]
    style = "bold green" if learning == "on" else "bold yellow"
    told = {"on": "learning", "frozen": "frozen", "never": "predicts only"}[learning]
    lines.append(_cut([
        ("zgedge top  ", "bold"), (f"{s['model']}  ", ""), (told, style),
        (f"  up {_age(s['uptime'])}, from {s['started_from']}", ""),
    ], width))  # fmt: skip
    lines.append([])
    history = s["history"]
    room = max(8, width - 32)
    each = [
        c / n if n else None for n, c in zip(history["samples"], history["correct"], strict=True)
    ]
    accuracy = s["accuracy"]
    row("accuracy",
        ("none yet" if accuracy is None else f"{accuracy:>8.1%}", "bold green"),
        (f" of {s['window']:>4} " if s["window"] else "", ""),
        (spark(each, 0.0, 1.0, room, unicode), "green"))  # fmt: skip
    queue = s["queue"]
    row(
        "samples",
        (f"{s['samples']:,} labelled, {s['predictions']:,} predicted, ", ""),
        (f"{queue['waiting']:,} of {queue['room']:,} wait, ", ""),
        (f"{queue['dropped']:,} dropped", "yellow" if queue["dropped"] else ""),
    )
    learner = s["learner"]
    if learner is not None:
        rewired = history["rewired"]
        line = spark(list(rewired), 0.0, max(1, *rewired, 1), room, unicode)
        row("rewired", (f"{learner['rewired']:>14,} ", ""), (line, "cyan"))
        if "drift" in learner:
            drift = learner["drift"]
            level = drift["level"]
            row(
                "drift",
                (level, "" if level == "quiet" else "bold yellow"),
                (f"; {drift['confirmed']:,} confirmed, ", ""),
                (f"{counted(drift['warnings'], 'warning')} ", ""),
                (f"(epoch {learner['epoch']})", ""),
            )
            drop = learner["smallest_drop"]
            sees = "it has too few anchors" if drop is None else f"sees {drop:.1f} points"
            row(
                "guard",
                (learner["guard"], "" if learner["guard"] == "on" else "yellow"),
                (f", {sees}; {learner['accepted']:,} accepted, ", ""),
                (f"{learner['rolled_back']:,} rolled back", ""),
            )
    memory = s["memory"]
    grown = memory["rss"] - memory["first"]
    row("memory", (f"{format_size(memory['rss']):>8} ", ""),
        (f"{grown:+,} bytes since start ", "" if grown <= 0 else "yellow"),
        (spark([float(r) for r in history["rss"]], 0.0, 1.25 * max(1, memory["most"]),
               max(8, room - 16), unicode), "blue"))  # fmt: skip
    budget = s["budget"] or s["bytes"]
    row("budget", (bar(s["bytes"] / budget, unicode), "magenta"),
        (f" {s['bytes']:,} of {budget:,} bytes", ""))  # fmt: skip
    ticks = s["ticks"]
    if ticks["count"]:
        row(
            "ticks",
            (f"{ticks['count']:,}; median {ticks['p50']:,.0f} µs, 99.9 % ", ""),
            (f"{ticks['p999']:,.0f} µs, longest {ticks['longest']:,.0f} µs", ""),
        )
    refused = sum(s["refused"].values())
    if refused:
        told = f"{refused:,}: "
        row("refused", (told + _most(s["refused"], width - 10 - len(told)), "yellow"))
    store = s["store"]
    if store is None:
        row("commits", ("none: there is no folder for learned state", "yellow"))
    else:
        since = store["since_commit"]
        last = "none since the start" if since is None else f"the last {_age(since)} ago"
        row("commits", (f"{store['commits']:,}, {last}; wear {format_size(store['written'])}, "
                        f"{format_size(store['written_a_day'])} a day", ""))  # fmt: skip
        if s.get("uncommitted"):  # a service of before does not say
            row("", (f"{counted(s['uncommitted'], 'sample')} not committed yet", ""))
        if store["failure"] is not None:
            row("DISK", (store["failure"], "bold red"))
        if store.get("log_failure") is not None:
            row("LOG", (store["log_failure"], "bold red"))
    if s["metrics_failure"] is not None:
        row("METRICS", (s["metrics_failure"], "bold red"))
    for source in s["sources"]:
        state = "ended" if source["ended"] else source["state"] or "open"
        row("source", (f"{source['source']}: {counted(source['rows'], 'row')}, {state}", ""))
    events = s["events"][-5:]
    if events:
        lines.append([])
    for event in events:
        at = time.strftime("%m-%d %H:%M:%S", time.localtime(event["time"]))
        lines.append(_cut([(f"{at}  {event['kind']:<14}", ""), (event["text"], "")], width))
    return lines


def _most(counts: dict[str, int], width: int) -> str:
    """Counts by their names, the largest first; those that find no room are counted."""
    told = [f"{n:,} {name}" for name, n in sorted(counts.items(), key=lambda at: (-at[1], at[0]))]
    for shown in range(len(told), 0, -1):
        left = len(told) - shown
        text = ", ".join(told[:shown]) + (f" and {left} more" if left else "")
        if len(text) <= width:
            break
    return text


def _age(seconds: float) -> str:
    s = int(seconds)
    days, hours, minutes = s // 86400, s // 3600 % 24, s // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s % 60} s" if minutes else f"{s} s"


def _cut(spans: Spans, width: int) -> Spans:
    """A line of no more than `width` characters."""
    out: Spans = []
    for text, style in spans:
        out.append((text[:width], style))
        width -= len(out[-1][0])
    return out
