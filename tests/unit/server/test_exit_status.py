"""The status that a supervisor reads: settings that can't work aren't tried again."""

import subprocess
import sys
from pathlib import Path

import pytest

from server.listening import listen
from server.restarting import ExitStatus

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("is_kept_running", [False, True])
def test_a_busy_port_ends_the_command_at_once(tmp_path: Path, is_kept_running: bool) -> None:
    [taken] = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    command = [sys.executable, "-m", "server", "--store", str(tmp_path), "--port", str(port)]
    with taken:
        ended = subprocess.run(
            [*command, *["--restart"] * is_kept_running],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert ended.returncode == ExitStatus.UNUSABLE
    assert f"port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "loading" not in ended.stderr
