"""What is installed is imported whole, and what is not is named."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from zgedge import MissingExtraError
from zgedge.extras import need

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except BaseException:
    {then}
"""


@pytest.mark.parametrize("then", ["pass", "raise ImportError('a part of it')"])
def test_ctrl_c_in_an_import_is_not_lost(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "swallows" if then == "pass" else "blames"
    (tmp_path / f"{name}.py").write_text(SWALLOWS.format(then=then))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        need(name, "train")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_any_thread_may_import() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(need("json", "train")))
    thread.start()
    thread.join()
    assert found == [need("json", "train")]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"^no_such is not installed.*") as e:
        need("no_such.part", "train")
    assert e.value.hint == "Install it with: pip install 'zgedge[train]'"
    with pytest.raises(MissingExtraError, match="^its-name is not"):
        need("no_such.part", "train", "its-name")
