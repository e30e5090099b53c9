"""Malformed and hostile requests: no 5xx, no hanging, nobody else disturbed.

Requests that schemathesis makes from /openapi.json, then hand-made attacks (strange values, broken
JSON and UTF-8, deep and huge documents, header abuse, bytes that are hardly HTTP, hostile grammars)
from several threads, while one honest client asks on and must always get its golden answer.
Takes a quarter of an hour and more on two cores.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.harness.command import MeasurementError, Report, make_server_parser, run_command
from loadtests.harness.report import format_table, percentile
from loadtests.harness.schemathesis_run import run_schemathesis
from loadtests.scenarios.exchange import post, stream
from loadtests.scenarios.hostile import judge, random_attack
from loadtests.scenarios.records import Outcome
from loadtests.scenarios.run import base_id_of
from loadtests.scenarios.stage import publish_adapters
from loadtests.scenarios.supervised_server import SupervisedServer, leaks
from loadtests.scenarios.wire_abuse import abuse
from loadtests.scenarios.workload import CHAT, chat_body

_PROMPT = "What is the capital of France?"
_GOLDEN_TOKENS = 12
_WIRE_SHARE = 0.15
_NUM_ADAPTERS = 3


@dataclass
class Tally:
    """What came of the attacks; shared by the threads."""

    statuses: Counter[int] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    refusal_seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_honest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, family: str, status: int, refusal_seconds: float) -> None:
        """One more request; 0 seconds for one that got an answer, which may take its time."""
        self.statuses[status] += 1
        self.families[family] += 1
        if refusal_seconds:
            self.refusal_seconds.append(refusal_seconds)
            self.slowest[family] = max(refusal_seconds, self.slowest.get(family, 0.0))

    @property
    def num_requests(self) -> int:
        return sum(self.statuses.values())


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser("fuzz", str(__doc__), quick="500 requests, none of schemathesis'")
    parser.add_argument("--requests", type=int, default=10_000, help="all together (%(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--slow", type=float, default=1.0, help="seconds that no refusal may take (%(default)s)"
    )
    parser.add_argument(
        "--examples", type=int, default=30,
        help="random ones of schemathesis for each route, beside the thousands that it always "
        "makes; 0 leaves it out (%(default)s)",
    )  # fmt: skip
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
        seconds, text = time.perf_counter() - start, ""
    else:
        made = random_attack(draw)
        exchange = post(url, made.path, made.body, made.headers)
        name, status, text = made.name, exchange.status, exchange.text or exchange.failure
        outcome = judge(status, exchange.failure, len(made.body))
        seconds = time.perf_counter() - start if status >= 400 else 0.0
    with tally.lock:
        tally.add(name, status, seconds)
        if outcome in (Outcome.FAULT, Outcome.BROKEN):
            tally.faults.append(f"{name}: {status} {text[:300]}")


def attack_all(server: SupervisedServer, arguments: argparse.Namespace, folder: Path) -> Tally:
    """First schemathesis' requests, then hand-made ones from several threads, as many as are left.

    Beside the latter one honest client asks on.
    """
    tally = Tally()
    if arguments.examples:
        made = run_schemathesis(server.url, arguments.examples, folder)
        for answered in made.requests:
            is_refused = answered.status >= 400
            family = f"schemathesis, {answered.route}"
            tally.add(family, answered.status, answered.seconds if is_refused else 0.0)
        tally.faults += [made.complaint] if made.complaint else []
    num_each = -(-max(0, arguments.requests - tally.num_requests) // arguments.threads)
    body = chat_body(base_id_of(server), _PROMPT, _GOLDEN_TOKENS)
    golden = stream(server.url, CHAT, body).text
    is_over = threading.Event()

    def attacker(index: int) -> None:
        draw = random.Random(arguments.seed * 1000 + index)
        for _ in range(num_each):
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


def measure(arguments: argparse.Namespace) -> Report:
    """Attack a server of our own; raises `MeasurementError` when it misbehaved."""
    with tempfile.TemporaryDirectory(prefix="switchyard-fuzz-") as scratch:
        folder = Path(scratch)
        log = folder / "server.log"
        server = SupervisedServer(
            arguments.base, folder / "store", log,
            (f"--adapter-root={folder}", *arguments.server_arg),
        )  # fmt: skip
        publish_adapters(folder / "store", folder / "adapters", arguments.base, _NUM_ADAPTERS, 8)
        server.start()
        try:
            before = server.vitals()
            tally = attack_all(server, arguments, folder)
            problems = [*tally.faults, *leaks(server.held())]
            after = server.vitals()
        finally:
            status = server.stop() if server.is_running else -1
        if status != 0:
            problems.append(f"the server ended with {status}: {log.read_text()[-1500:]}")
    slowest = max(tally.refusal_seconds, default=0.0)
    if slowest > arguments.slow:
        problems.append(f"a refusal took {slowest:.2f} s, more than {arguments.slow:g} s")
    _print(tally)
    print(f"memory {before.resident_bytes / 2**20:.0f} to {after.resident_bytes / 2**20:.0f} MiB, "
          f"open files {before.num_files} to {after.num_files}")  # fmt: skip
    if problems:
        shown = "\n".join(f"- {text}" for text in problems[:15])
        raise MeasurementError(f"{len(problems)} problems:\n{shown}")
    return {
        "statuses": dict(tally.statuses),
        "requests": tally.num_requests,
        "families": dict(tally.families),
        "slowest_refusal_seconds": slowest,
        "slowest_by_family": tally.slowest,
        "honest_answers": tally.num_honest,
    }


def _print(tally: Tally) -> None:
    statuses = [(str(s or "hung up"), str(n)) for s, n in sorted(tally.statuses.items())]
    print(format_table(("answer", "requests"), statuses))
    families = [
        (name, str(count), f"{1e3 * tally.slowest.get(name, 0.0):.1f}")
        for name, count in sorted(tally.families.items())
    ]
    print(format_table(("family", "requests", "slowest refusal, ms"), families))
    refusals = tally.refusal_seconds or [0.0]
    p50, p99, slowest = (1e3 * percentile(refusals, share) for share in (50, 99, 100))
    print(f"{tally.num_requests} requests; refusals: p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
          f"slowest {slowest:.1f} ms")  # fmt: skip
    print(f"honest answers meanwhile: {tally.num_honest}, all golden unless told below")


def main(argv: Sequence[str] | None = None) -> int:
    """0 when nothing was wrong."""
    return run_command("fuzz", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
