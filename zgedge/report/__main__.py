"""Draw a training log: python -m zgedge.report LOG [--out PICTURE]"""

from __future__ import annotations

import click

from zgedge.errors import ZgedgeError
from zgedge.report.pictures import draw


@click.command()
@click.argument("log", type=click.Path(dir_okay=False))
@click.option("--out", default="training.png", show_default=True, help="Picture to write.")
def main(log: str, out: str) -> None:
    """Draw LOG, which `zgedge train --log LOG` wrote."""
    try:
        draw(log, out)
    except ZgedgeError as e:
        click.echo(f"Error: {e}", err=True)
        raise SystemExit(e.exit_code) from e
    click.echo(f"Wrote {out}.")


if __name__ == "__main__":
    main()
