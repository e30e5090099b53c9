"""Lets schemathesis make requests from a server's OpenAPI document, and reads what came back."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HOOKS = "loadtests.harness.served_names"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Answered:
    """One of its requests: for which route, with which status (0: none), in how many seconds."""

    route: str
    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SchemathesisRun:
    """All its requests, and what it complains of as text; empty when it is content."""

    requests: tuple[Answered, ...]
    complaint: str


def run_schemathesis(url: str, num_examples: int, folder: Path) -> SchemathesisRun:
    """Valid and broken requests to every route; it complains of a 5xx only. Writes to `folder`."""
    events = folder / "events.ndjson"
    search_path = os.pathsep.join((str(_ROOT), os.environ.get("PYTHONPATH", "")))
    finished = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "st"), "run", f"{url}/openapi.json"),
            *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", str(num_examples), "--continue-on-failure", "--no-color"),
            *("--request-timeout", "300", "--suppress-health-check", "all", "--seed", "1"),
            *("--report", "ndjson", "--report-ndjson-path", str(events)),
        ],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": _HOOKS, "PYTHONPATH": search_path},
    )  # fmt: skip
    requests = tuple(read_events(events)) if events.exists() else ()
    if finished.returncode == 0 and requests:
        return SchemathesisRun(requests, "")
    return SchemathesisRun(
        requests, f"schemathesis:\n{finished.stdout[-3000:]}{finished.stderr[-1000:]}"
    )


def read_events(path: Path) -> Iterator[Answered]:
    """The requests in one of its NDJSON reports."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            finished = json.loads(line).get("ScenarioFinished")
            if finished is None:
                continue
            recorder = finished["recorder"]
            # A scenario in which nothing was sent has none.
            for exchange in recorder.get("interactions", {}).values():
                response = exchange.get("response") or {"status_code": 0, "elapsed": 0.0}
                yield Answered(
                    recorder["label"], int(response["status_code"]), float(response["elapsed"])
                )
