"""Locust as a child process: the load has its own interpreter, patched by gevent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from loadtests.harness.command import MeasurementError
from loadtests.scenarios.catalogue import Scenario

_STOP_LIMIT_SECONDS = 180.0
_USERS_FILE = Path(__file__).with_name("users.py")


class LoadProcess:
    """One scenario against one URL, until told to stop."""

    def __init__(self, scenario: Scenario, url: str, workload: Path, log_file: Path) -> None:
        self._log_file = log_file
        environment = dict(os.environ)
        root = str(_USERS_FILE.parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            part for part in (root, environment.get("PYTHONPATH", "")) if part
        )
        config = ",".join(
            f'{{"user_class_name": "{name}", "fixed_count": {count}}}'
            for name, count in scenario.users.items()
        )
        command = [
            *(sys.executable, "-m", "locust", "--headless", "--only-summary"),
            *("-f", str(_USERS_FILE), "--host", url, "--workload", str(workload)),
            *("--config-users", f"[{config}]"),
            *("--users", str(scenario.num_users), "--spawn-rate", str(scenario.num_users)),
            *("--stop-timeout", "120", *scenario.users),
        ]
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def check_alive(self) -> None:
        """Raises `MeasurementError` when Locust has ended by itself."""
        if self._process.poll() is not None:
            log = self._log_file.read_text(errors="replace")[-2000:]
            raise MeasurementError(f"the load process ended early:\n{log}")

    def stop(self) -> None:
        """Let running requests end, then end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
