"""One scenario from an empty store to a verdict: stage, load, watch, stop, look for leaks."""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adapters.store.store import AdapterStore
from loadtests.harness.prompts import chat_token_counter
from loadtests.scenarios.catalogue import Scenario
from loadtests.scenarios.load_process import LoadProcess
from loadtests.scenarios.records import Outcome, Record, count_outcomes, read_records
from loadtests.scenarios.stage import (
    fill_memory,
    make_workload,
    publish_adapters,
    with_goldens,
)
from loadtests.scenarios.supervised_server import SupervisedServer, Vitals, leaks

_SAMPLE_SECONDS = 5.0
_WARM_SHARE = 0.2  # of the run; memory is compared from there on
_SETTLE_SECONDS = 2.0  # after an outage, for connections that were being refused
_MAX_GROWTH = 1.10
_BANK_PAGES = "64"
_KV_CACHE_GIB = "0.5"  # small, so that all of it is soon in use: unused memory isn't resident


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's vitals at `seconds` after the load began, in its life number `life`."""

    seconds: float
    life: int
    vitals: Vitals


@dataclass(frozen=True, slots=True)
class Outage:
    """The server was killed, and was ready again; unix time."""

    killed: float
    ready: float

    @property
    def seconds(self) -> float:
        return self.ready - self.killed

    def touches(self, record: Record) -> bool:
        """Whether a request was running, or began, while the server was away."""
        ended = record.started + record.seconds
        return record.started <= self.ready + _SETTLE_SECONDS and ended >= self.killed


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `kill_every_seconds` is the mean time between kills of the server."""

    scenario: Scenario
    base: str
    minutes: float
    kill_every_seconds: float | None
    rank: int
    max_tokens: int
    num_prompts: int
    server_args: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Verdict:
    """What was seen. `problems` is empty when everything holds."""

    records: tuple[Record, ...]
    samples: tuple[Sample, ...]
    outages: tuple[Outage, ...]
    idle_before: Vitals
    idle_after: Vitals
    held_after: Mapping[str, float | None]
    exit_status: int
    problems: tuple[str, ...]

    def as_report(self) -> dict[str, object]:
        """The verdict for a JSON file, without the single records."""
        return {
            "outcomes": dict(count_outcomes(self.records)),
            "outage_seconds": [outage.seconds for outage in self.outages],
            "idle_before": asdict(self.idle_before),
            "idle_after": asdict(self.idle_after),
            "held_after": dict(self.held_after),
            "exit_status": self.exit_status,
            "problems": self.problems,
        }


class ScenarioRun:
    """One run in a folder of its own. The folder keeps the records and the logs."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._records = folder / "records.jsonl"
        self._store = folder / "store"
        self._samples: list[Sample] = []
        self._outages: list[Outage] = []

    def run(self) -> Verdict:
        """Raises `MeasurementError` or `ServerStartError` when the run can't be made."""
        plan = self._plan
        names, churn = publish_adapters(
            self._store, self._folder / "adapters", plan.base, plan.scenario.num_adapters, plan.rank
        )
        server = SupervisedServer(
            plan.base,
            self._store,
            self._folder / "server.log",
            (
                *(f"--adapter-root={self._folder}", f"--adapter-bank-pages={_BANK_PAGES}"),
                f"--kv-cache-gib={_KV_CACHE_GIB}",
                *plan.server_args,
            ),
        )
        server.start()
        try:
            workload = make_workload(
                base_id_of(server), names, churn,
                num_prompts=plan.num_prompts, max_tokens=plan.max_tokens, records=self._records,
                count_tokens=chat_token_counter(plan.base),
            )  # fmt: skip
            workload = with_goldens(workload, server)
            fill_memory(workload, server)
            file = self._folder / "workload.json"
            workload.write(file)
            idle_before = server.vitals()
            load = LoadProcess(plan.scenario, server.url, file, self._folder / "load.log")
            try:
                self._watch(server, load)
            finally:
                load.stop()
            held = server.held()
            idle_after = server.vitals()
        finally:
            exit_status = server.stop() if server.is_running else -1
        records = tuple(read_records(self._records))
        verdict = Verdict(
            records=records,
            samples=tuple(self._samples),
            outages=tuple(self._outages),
            idle_before=idle_before,
            idle_after=idle_after,
            held_after=held,
            exit_status=exit_status,
            problems=(),
        )
        return replace(verdict, problems=(*leaks(held), *self._problems(verdict)))

    def _watch(self, server: SupervisedServer, load: LoadProcess) -> None:
        draw = random.Random(self._plan.seed)
        began = time.monotonic()
        end = began + 60.0 * self._plan.minutes
        next_kill = self._next_kill(draw, began)
        while (now := time.monotonic()) < end:
            load.check_alive()
            if next_kill is not None and now >= next_kill:
                killed = time.time()
                server.kill()
                server.start()
                self._outages.append(Outage(killed, time.time()))
                next_kill = self._next_kill(draw, time.monotonic())
            self._samples.append(Sample(now - began, len(self._outages), server.vitals()))
            time.sleep(_SAMPLE_SECONDS)

    def _next_kill(self, draw: random.Random, now: float) -> float | None:
        every = self._plan.kill_every_seconds
        return None if every is None else now + every * draw.uniform(0.5, 1.5)

    def _problems(self, verdict: Verdict) -> list[str]:
        problems = bad_answers(verdict.records, verdict.outages)
        problems += growth(verdict.samples)
        if verdict.exit_status != 0:
            problems.append(f"SIGTERM ended the server with {verdict.exit_status}, not 0")
        for stored in AdapterStore(self._store).list():
            if not stored.path.is_dir():
                problems.append(f"the store lost {stored.label}")
        return problems


def base_id_of(server: SupervisedServer) -> str:
    """The id of the base, which `/v1/models` lists first."""
    return str(json.loads(server.get("/v1/models")[1])["data"][0]["id"])


def bad_answers(records: Sequence[Record], outages: Sequence[Outage]) -> list[str]:
    """Wrong answers and faults; broken ones too, unless the server was killed under them."""
    problems = []
    for record in records:
        if record.outcome in (Outcome.WRONG, Outcome.FAULT):
            problems.append(f"{record.scenario} {record.outcome}: {record.status} {record.note}")
        elif record.outcome is Outcome.BROKEN and not any(o.touches(record) for o in outages):
            problems.append(f"{record.scenario} broken: {record.note}")
    return problems


def longest_life(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of the life that has most of them, after it warmed up."""
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.life, []).append(sample)
    longest = max(lives.values(), key=len, default=[])
    return longest[int(len(longest) * _WARM_SHARE) :]


def growth(samples: Sequence[Sample]) -> list[str]:
    """Memory beside cached adapters, and files, must be flat within the longest life."""
    settled = longest_life(samples)
    if len(settled) < 4:
        return []
    quarter = len(settled) // 4
    problems = []
    for name in ("other_bytes", "num_files"):
        first, last = (
            sum(getattr(s.vitals, name) for s in part) / quarter
            for part in (settled[:quarter], settled[-quarter:])
        )
        if last > first * _MAX_GROWTH:
            problems.append(f"{name} grew from {first:.0f} to {last:.0f} in one life of the server")
    return problems
