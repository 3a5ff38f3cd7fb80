"""Folders of the person who deploys: settings (keys, boards, profiles), and what is made again."""

from __future__ import annotations

import os
from pathlib import Path

from zgedge.errors import ZgedgeError


def config_folder() -> Path:
    """`$ZGEDGE_CONFIG`, else `zgedge` in `$XDG_CONFIG_HOME` or `~/.config`. It may not exist."""
    if given := os.environ.get("ZGEDGE_CONFIG"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "zgedge")


def cache_folder() -> Path:
    """`zgedge` in `$XDG_CACHE_HOME` or `~/.cache`. It may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "zgedge")


def make_folder(folder: Path, mode: int = 0o755) -> Path:
    """`folder`, made where it is missing. Raises ZgedgeError where that cannot be done."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as e:
        raise ZgedgeError(f"Cannot make the folder {folder}: {e.strerror}.") from e
    return folder
