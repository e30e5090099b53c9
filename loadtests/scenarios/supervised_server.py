"""Our server as a process that may be killed and started again on the same port and store."""

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.harness.metrics_page import MetricsPage
from loadtests.harness.server_process import ServerStartError, free_port, tail

_START_LIMIT_SECONDS = 300.0
_STOP_LIMIT_SECONDS = 60.0
_IDLE_LIMIT_SECONDS = 60.0


_HELD = (
    "switchyard_num_requests_running",
    "switchyard_num_requests_waiting",
    "switchyard_kv_cache_usage_ratio",
    "switchyard_adapter_slots_pinned",
)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the process holds: resident memory in bytes, open files and sockets, threads.

    `cached_bytes` is the part of the memory that adapters in the host cache have, which grows on
    purpose up to a limit; what is left of it must be flat.
    """

    resident_bytes: int
    num_files: int
    num_threads: int
    cached_bytes: int = 0

    @property
    def other_bytes(self) -> int:
        """Memory beside the cached adapters."""
        return self.resident_bytes - self.cached_bytes


class SupervisedServer:
    """Starts, kills and stops one server; its URL stays the same. The log is appended to."""

    def __init__(self, base: str, store: Path, log_file: Path, extra_args: Sequence[str]) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._log_file = log_file
        self._command = [
            str(Path(sys.executable).parent / "server"),
            *("--base", base, "--store", str(store)),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *extra_args,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._cached_bytes = 0

    def start(self) -> float:
        """Start and wait until it is ready; returns the seconds. Raises `ServerStartError`."""
        assert self._process is None
        began = time.perf_counter()
        with self._log_file.open("ab") as log:
            self._cached_bytes = 0
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        while time.perf_counter() - began < _START_LIMIT_SECONDS:
            if self._process.poll() is not None:
                break
            if self.get("/health/ready")[0] == 200:
                return time.perf_counter() - began
            time.sleep(0.1)
        raise ServerStartError(f"the server isn't ready. Its log ends:\n{tail(self._log_file)}")

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def stop(self) -> int:
        """SIGTERM; returns the exit status, or -9 when it had to be killed."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._process = None
        return status

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, ""

    def metrics(self) -> MetricsPage:
        """`/metrics` now; empty when nobody answers."""
        return MetricsPage(self.get("/metrics")[1])

    def vitals(self) -> Vitals:
        """Memory, files and threads of the process now."""
        memory = self.metrics().memory()
        if memory:  # else it is too busy to say
            self._cached_bytes = memory.get(("cpu", "adapter_host_cache"), 0)
        process = psutil.Process(self._running().pid)
        with process.oneshot():
            return Vitals(
                process.memory_info().rss,
                process.num_fds(),
                process.num_threads(),
                self._cached_bytes,
            )

    def held(self) -> dict[str, float | None]:
        """What is still held once the server has had time to become idle; None: it doesn't say.

        KV blocks and adapter pins belong to sequences, so an idle server holds none.
        """
        deadline = time.monotonic() + _IDLE_LIMIT_SECONDS
        while True:
            page = self.metrics()
            held = {name: page.total(name) if name in page else None for name in _HELD}
            if not any(value != 0.0 for value in held.values()) or time.monotonic() > deadline:
                return held
            time.sleep(0.5)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server wasn't started"
        return self._process


def leaks(held: Mapping[str, float | None]) -> list[str]:
    """What of `SupervisedServer.held` is a problem; empty when all is well."""
    return [f"{name} is {value}, not 0" for name, value in held.items() if value != 0.0]
