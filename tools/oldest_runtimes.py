"""Run the tests of exports with the oldest packages that zgedge[export] names.

    python tools/oldest_runtimes.py [--folder .cache/oldest] [PYTEST ARGUMENTS]

Makes a virtual environment in the folder, or takes the one that is there, with the lowest version
of each package of the extra, and runs `pytest tests/export` in it. Ends with pytest's exit code.
The newest versions are those that the other tests run with.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
# What the tests need besides. Runtimes of that age were built for the numpy before 2.
OTHERS = ("numpy<2", "psutil", "click", "pytest>=8", "scikit-learn")


def lowest(extra: str = "export") -> list[str]:
    """Requirements of an extra, each at its lowest version, as pip takes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for requirement in project["optional-dependencies"][extra]:
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        if match is None:
            raise click.ClickException(f"{requirement!r} does not say its lowest version.")
        found.append(f"{match[1]}=={match[2]}")
    return found


def prepare(folder: Path) -> Path:
    """The environment's Python, with the packages installed."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *lowest(), *OTHERS],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    return python


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--folder", default=ROOT / ".cache" / "oldest", type=Path, help="The environment.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run the tests of exports with the oldest packages that zgedge[export] names."""
    python = prepare(folder)
    click.echo(f"with {', '.join(lowest())}")
    done = subprocess.run(
        [python, "-m", "pytest", "tests/export", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
    )  # fmt: skip
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
