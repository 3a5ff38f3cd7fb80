"""Golden exports: what every golden file is exported to, pinned by its bytes.

    python tools/make_golden_exports.py           renew the pins, and say which changed
    python tools/make_golden_exports.py --check   say which differ, write nothing

`tests/golden/exports.json` has for each file of tests/golden and each export of it the length and
the SHA-256 of its bytes, zgedge's own version in them as zeros. Unlike the golden files, exports
may change: a change that is meant is renewed by this command, and seen in the commit. The bytes are
the same with every version of the packages that the extra allows. C holds the core's sources, and
changes with them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import zgedge  # noqa: E402
from zgedge.errors import ZgedgeError  # noqa: E402
from zgedge.export.targets import TARGETS, contents, make  # noqa: E402
from zgedge.runtime import Model  # noqa: E402

FOLDER = ROOT / "tests" / "golden"
PINS = FOLDER / "exports.json"

Pins = dict[str, dict[str, dict[str, int | str]]]


def exports(path: Path, targets: tuple[str, ...] = tuple(TARGETS)) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all that a golden file is exported to, softmax and learner included."""
    model = Model.open(path)
    for target in targets:
        for form in TARGETS[target].forms:
            try:
                made = make(model, target, form, "golden" + TARGETS[target].suffixes[0])
            except ZgedgeError:
                if (target, form) == ("tflite", "sparse"):
                    continue  # no layer of it has blocks for that encoding
                raise
            yield f"{target} {form}", b"".join(contents(target, made))
    if "onnx" in targets:
        yield "onnx softmax", make(model, "onnx", "sparse", "golden.onnx", softmax=True)
    if "tflite" in targets:
        yield "tflite softmax", make(model, "tflite", "dense", "golden.tflite", softmax=True)
    if "c" in targets and model.arena.network.learning:
        made = make(model, "c", "source", "golden.c", learning=True)
        yield "c learner", b"".join(contents("c", made))


def pin(data: bytes) -> dict[str, int | str]:
    version = zgedge.__version__.encode()
    same = data.replace(version, b"0" * len(version))
    return {"bytes": len(data), "sha256": hashlib.sha256(same).hexdigest()}


def pins(targets: tuple[str, ...] = tuple(TARGETS)) -> Pins:
    """Pins of all golden files."""
    return {
        path.stem: {name: pin(data) for name, data in exports(path, targets)}
        for path in sorted(FOLDER.glob("*.zge"))
    }


def differences(now: Pins, before: Pins) -> list[str]:
    """Which exports are others than before, new, or no more."""
    flat = [
        {(file, name): found for file, names in some.items() for name, found in names.items()}
        for some in (now, before)
    ]
    return [
        f"{file}: {name}: {flat[1].get((file, name), {}).get('bytes', 'no')} bytes pinned, "
        f"{flat[0].get((file, name), {}).get('bytes', 'no')} now"
        for file, name in sorted({*flat[0], *flat[1]})
        if flat[0].get((file, name)) != flat[1].get((file, name))
    ]


@click.command()
@click.option("--check", is_flag=True, help="Say what differs, and write nothing.")
def main(check: bool) -> None:
    """Renew the pins of golden exports, or check them."""
    before: Pins = json.loads(PINS.read_text()) if PINS.exists() else {}
    now = pins()
    found = differences(now, before)
    for line in found:
        click.echo(line, err=check)
    if check and found:
        sys.exit(1)
    if found:
        PINS.write_text(json.dumps(now, indent=1) + "\n")
    count = sum(len(names) for names in now.values())
    click.echo(f"{count} exports of {len(now)} files" + (" as pinned" if not found else ""))


if __name__ == "__main__":
    main()
