"""Programs that change a store and are killed at it: `server`, `trainer run`, `adapters`."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

from loadtests.harness.command import MeasurementError
from loadtests.harness.server_process import free_port, tail

_START_SECONDS = 300.0
_CHANGE_SECONDS = 300.0
_LONGEST_DELAY_SECONDS = 0.1
"""From the first sign of a change in staging: one takes less on an idle machine."""


class Program:
    """One running program, its output in a file. Kill it, or use it in a `with`."""

    def __init__(self, command: Sequence[str], log_file: Path) -> None:
        self.log_file = log_file
        self._log: IO[bytes] = log_file.open("ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def kill_in_a_change(self, staging: Path, draw: random.Random, change: threading.Event) -> None:
        """Kill it a moment after something appears in `staging`.

        Or at its end, or when `change` is set, if nothing does: the change was refused, or over.
        Raises `MeasurementError` when nothing happens at all.
        """
        before = _entries(staging)
        deadline = time.monotonic() + _CHANGE_SECONDS
        while not _entries(staging) - before and not change.is_set():
            if self.has_ended:
                return
            if time.monotonic() > deadline:
                raise MeasurementError(f"no change came. The log's end:\n{tail(self.log_file)}")
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, _LONGEST_DELAY_SECONDS))
        self.kill()


class ServerProgram(Program):
    """Our server over a store; its administrating requests are the changes."""

    def __init__(self, base: str, store: Path, root: Path, log_file: Path) -> None:
        """Raises `MeasurementError` when it doesn't become ready."""
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = [
            str(Path(sys.executable).parent / "server"),
            *("--base", base, "--store", str(store), "--adapter-root", str(root)),
            *("--host", "127.0.0.1", "--port", str(port), "--kv-cache-gib", "0.05"),
        ]
        super().__init__(command, log_file)
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self.has_ended or time.monotonic() > deadline:
                self.kill()
                raise MeasurementError(f"the server didn't start:\n{tail(log_file)}")
            time.sleep(0.1)

    def apply(self, operation: dict[str, Any], folders: Sequence[Path]) -> None:
        """Ask for a change and wait for the answer, whatever it is; none comes once it is dead."""
        name = operation["name"]
        match operation["op"]:
            case "load":
                folder = folders[operation["folder"]]
                body = {"lora_name": name, "lora_path": str(folder), "load_inplace": True}
                self._ask("POST", "/v1/load_lora_adapter", body)
            case "alias":
                body = {"weights": operation["weights"]}
                self._ask("PUT", f"/v1/adapters/{name}/alias", body)
            case "rm":
                version = operation["version"]
                reference = name if version is None else f"{name}@{version}"
                self._ask("DELETE", f"/v1/adapters/{reference}", None)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_CHANGE_SECONDS) as answer:
                answer.read()
        except OSError:  # an answer of refusal included: the model knows what is refused
            return

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def operator_command(
    operation: dict[str, Any], store: Path, folders: Sequence[Path]
) -> tuple[str, ...]:
    """The `adapters` command line of a change."""
    name = operation["name"]
    match operation["op"]:
        case "load":
            parts = ["import", name, str(folders[operation["folder"]])]
        case "alias":
            parts = ["alias", name, *(f"{v}:{w!r}" for v, w in operation["weights"].items())]
        case _:
            version = operation["version"]
            parts = ["rm", "--yes", name if version is None else f"{name}@{version}"]
    return (sys.executable, "-m", "adapters.commands.cli", *parts, "--store", str(store))
