"""Malformed and hostile requests: no 5xx, no hanging, nobody else disturbed.

Hand-made attacks (strange values, broken JSON and UTF-8, deep and huge documents, header abuse,
bytes that are hardly HTTP, hostile grammars) from several threads, while one honest client asks on
and must always get its golden answer; then requests that schemathesis makes from /openapi.json.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.harness.command import (
    MeasurementError,
    Report,
    add_base,
    add_server_arg,
    make_parser,
    run_command,
)
from loadtests.harness.report import format_table, percentile
from loadtests.scenarios.exchange import post, stream
from loadtests.scenarios.hostile import judge, random_attack
from loadtests.scenarios.records import Outcome
from loadtests.scenarios.run import base_id_of
from loadtests.scenarios.supervised_server import SupervisedServer
from loadtests.scenarios.wire_abuse import abuse
from loadtests.scenarios.workload import CHAT, chat_body

_PROMPT = "What is the capital of France?"
_GOLDEN_TOKENS = 12
_WIRE_SHARE = 0.15


@dataclass
class Tally:
    """What came of the attacks; shared by the threads."""

    statuses: Counter[int] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    refusal_seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_honest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("fuzz", str(__doc__), quick="500 requests, none of schemathesis'")
    add_base(parser)
    parser.add_argument("--requests", type=int, default=10_000, help="hand-made (%(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--slow", type=float, default=1.0, help="seconds that no refusal may take (%(default)s)"
    )
    parser.add_argument(
        "--examples", type=int, default=30,
        help="of schemathesis for each route and phase; 0 leaves it out (%(default)s)",
    )  # fmt: skip
    add_server_arg(parser)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.requests, arguments.examples = 500, 0
    return arguments


def attack(url: str, draw: random.Random, tally: Tally) -> None:
    """One attack, judged. A 2xx is an answer too, and may take its time."""
    start = time.perf_counter()
    if draw.random() < _WIRE_SHARE:
        name, status = abuse(url, draw)
        outcome = Outcome.FAULT if status >= 500 else Outcome.REFUSED
        seconds, text = 0.0, ""
    else:
        made = random_attack(draw)
        exchange = post(url, made.path, made.body, made.headers)
        name, status, text = made.name, exchange.status, exchange.text or exchange.failure
        outcome = judge(status, exchange.failure, len(made.body))
        seconds = time.perf_counter() - start if status >= 400 else 0.0
    with tally.lock:
        tally.statuses[status] += 1
        tally.families[name] += 1
        if seconds:
            tally.refusal_seconds.append(seconds)
        if outcome in (Outcome.FAULT, Outcome.BROKEN):
            tally.faults.append(f"{name}: {status} {text[:300]}")


def attack_all(server: SupervisedServer, arguments: argparse.Namespace) -> Tally:
    """All hand-made attacks from several threads beside one honest client."""
    tally = Tally()
    body = chat_body(base_id_of(server), _PROMPT, _GOLDEN_TOKENS)
    golden = stream(server.url, CHAT, body).text
    is_over = threading.Event()

    def attacker(index: int) -> None:
        draw = random.Random(arguments.seed * 1000 + index)
        for _ in range(arguments.requests // arguments.threads):
            try:
                attack(server.url, draw, tally)
            except OSError as error:
                with tally.lock:
                    tally.faults.append(f"no connection: {error}")

    def honest() -> None:
        while not is_over.is_set():
            answer = stream(server.url, CHAT, body)
            with tally.lock:
                tally.num_honest += 1
                if answer.text != golden:
                    tally.faults.append(f"the honest client got {answer.text!r} {answer.failure}")

    threads = [threading.Thread(target=attacker, args=(i,)) for i in range(arguments.threads)]
    witness = threading.Thread(target=honest)
    witness.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    witness.join()
    return tally


def run_schemathesis(url: str, num_examples: int, folder: Path) -> tuple[int, list[str]]:
    """Test cases that schemathesis made, and what it complains of; 5xx only."""
    finished = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "st"), "run", f"{url}/openapi.json"),
            *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", str(num_examples), "--continue-on-failure"),
            *("--request-timeout", "60", "--suppress-health-check", "all", "--seed", "1"),
            *("--report", "ndjson", "--report-ndjson-path", str(folder / "events.ndjson")),
        ],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;]*m", "", finished.stdout)
    found = re.search(r"(\d[\d,]*) generated", plain)
    num_cases = int(found.group(1).replace(",", "")) if found else 0
    if finished.returncode == 0 and num_cases:
        return num_cases, []
    return num_cases, [f"schemathesis:\n{plain[-3000:]}{finished.stderr[-1000:]}"]


def measure(arguments: argparse.Namespace) -> Report:
    """Attack a server of our own; raises `MeasurementError` when it misbehaved."""
    with tempfile.TemporaryDirectory(prefix="switchyard-fuzz-") as scratch:
        folder = Path(scratch)
        log = folder / "server.log"
        server = SupervisedServer(
            arguments.base, folder / "store", log,
            (f"--adapter-root={folder}", *arguments.server_arg),
        )  # fmt: skip
        server.start()
        try:
            before = server.vitals()
            tally = attack_all(server, arguments)
            num_cases, problems = 0, list(tally.faults)
            if arguments.examples:
                num_cases, complaints = run_schemathesis(server.url, arguments.examples, folder)
                problems += complaints
            problems += server.leaks()
            after = server.vitals()
        finally:
            status = server.stop() if server.is_running else -1
        if status != 0:
            problems.append(f"the server ended with {status}: {log.read_text()[-1500:]}")
    slowest = max(tally.refusal_seconds, default=0.0)
    if slowest > arguments.slow:
        problems.append(f"a refusal took {slowest:.2f} s, more than {arguments.slow:g} s")
    _print(tally, num_cases)
    print(f"memory {before.resident_bytes / 2**20:.0f} to {after.resident_bytes / 2**20:.0f} MiB, "
          f"open files {before.num_files} to {after.num_files}")  # fmt: skip
    if problems:
        shown = "\n".join(f"- {text}" for text in problems[:15])
        raise MeasurementError(f"{len(problems)} problems:\n{shown}")
    return {
        "statuses": dict(tally.statuses),
        "schemathesis_cases": num_cases,
        "slowest_refusal_seconds": slowest,
        "honest_answers": tally.num_honest,
    }


def _print(tally: Tally, num_cases: int) -> None:
    statuses = [(str(s or "hung up"), str(n)) for s, n in sorted(tally.statuses.items())]
    print(format_table(("answer", "requests"), statuses))
    print(format_table(("family", "requests"), [(k, str(n)) for k, n in sorted(
        tally.families.items())]))  # fmt: skip
    refusals = tally.refusal_seconds or [0.0]
    p50, p99, slowest = (1e3 * percentile(refusals, share) for share in (50, 99, 100))
    print(f"refusals: p50 {p50:.1f} ms, p99 {p99:.1f} ms, slowest {slowest:.1f} ms")
    print(f"honest answers meanwhile: {tally.num_honest}, all golden unless told below; "
          f"schemathesis: {num_cases} cases")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """0 when nothing was wrong."""
    return run_command("fuzz", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
