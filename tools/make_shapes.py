"""Make a folder of pictures to train on: eight shapes, a folder for each.

python tools/make_shapes.py shapes --count 500
zgedge train shapes --budget 32KB
"""

from __future__ import annotations

import argparse
import sys

from zgedge.data import shapes
from zgedge.errors import ZgedgeError


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=400, help="pictures of each shape (400)")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side (32)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        names = shapes.make(given.folder, given.seed, given.size, given.count)
    except ZgedgeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{given.folder}: {given.count} pictures each of {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
