"""What all commands share: errors as messages and exit codes, `--json`, and the word of the end."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from zgedge.errors import BudgetError, UsageError, ZgedgeError
from zgedge.report.screen import clean

if TYPE_CHECKING:
    from click import Command as Command
    from click import Group as Group
else:
    try:
        from rich_click import RichCommand as Command
        from rich_click import RichGroup as Group
    except ImportError:  # a device: click alone
        from click import Command, Group

INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE
ENDS = """\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad data, 4 bad model file,
5 budget too small, 6 proof failed, 7 board not reached, 130 interrupted, 141 reader gone."""


class Commands(Group):
    """Turns our errors into a message and their exit code."""

    command_class = Command
    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Before the options are known to be good: what is wrong with them is said in JSON as well.
        ctx.meta["zgedge.json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZgedgeError as e:
            _fail(ctx, e)
        except click.UsageError as e:
            if not ctx.meta["zgedge.json"]:
                raise
            _fail(ctx, UsageError(e.format_message()))
        except MemoryError:
            _fail(ctx, ZgedgeError("This machine has not enough memory for that."))
        except (KeyboardInterrupt, click.Abort):
            if ctx.meta["zgedge.json"] and not ctx.meta.get("zgedge.printed"):
                print_json({"error": "Interrupted.", "hint": None, "exit_code": int(INTERRUPTED)})
            else:
                click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader has gone, as `head` does; there is nobody to tell.
            close_output()
            ctx.exit(READER_GONE)
        except OSError as e:
            # What writes a file says which one; this is the output itself, on a full disk.
            close_output()
            click.echo(f"Error: Cannot write the output: {e.strerror}.", err=True)
            ctx.exit(ZgedgeError.exit_code)


def _fail(ctx: click.Context, error: ZgedgeError) -> NoReturn:
    if ctx.meta["zgedge.json"]:
        found: dict[str, Any] = {
            "error": error.message, "hint": error.hint, "exit_code": error.exit_code,
        }  # fmt: skip
        print_json(
            {**found, "smallest": error.smallest} if isinstance(error, BudgetError) else found
        )
    else:
        _echo(f"Error: {error.message}")
        if error.hint:
            _echo(f"       {error.hint}")
    ctx.exit(error.exit_code)


def _echo(text: str) -> None:
    """Lines on standard error; what a board or a file said may be in them."""
    click.echo("\n".join(clean(line) for line in text.split("\n")), err=True)


def close_output(stream: TextIO | None = None) -> None:
    """Let what is still buffered, of standard output where no other is named, go nowhere: the
    interpreter would fail to flush it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)
file_argument = click.argument("file", type=click.Path(dir_okay=False))
optional_file_argument = click.argument(
    "file", type=click.Path(dir_okay=False), required=False, metavar="[FILE]"
)


def print_json(found: dict[str, Any]) -> None:
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta["zgedge.printed"] = True  # a Ctrl-C after it adds no second object
    click.echo(json.dumps(found))
