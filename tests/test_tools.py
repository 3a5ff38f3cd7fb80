"""The scripts that set things up fail with a message that helps."""

from __future__ import annotations

import subprocess
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(TOOLS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_no_usable_python_is_said_and_what_to_install(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run("make_venv.sh", tmp_path / "env", old)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert str(old) in done.stderr
    assert "apt install" in done.stderr
    assert not (tmp_path / "env").exists()


def test_wheel_for_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    done = run("cross_wheel.sh", "vax", tmp_path / "wheels")
    assert done.returncode == 2
    assert "aarch64|armv7l|x86_64" in done.stderr
    assert not (tmp_path / "wheels").exists()


def test_emulators_never_stop_a_test_run() -> None:
    text = (TOOLS / "get_qemu.sh").read_text()
    assert text.rstrip().endswith("exit 0")
    assert "tests on emulated Arm will be skipped" in text
