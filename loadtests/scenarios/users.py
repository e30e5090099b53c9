"""The users. Run them with `python -m loadtests.scenarios`, or by hand:

    locust -f loadtests/scenarios/users.py --workload FILE --host URL SteadyUser ZipfUser ...

`FILE` is a `Workload`; every request leaves a line in its `records` file.
"""

import itertools
import json
import random
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import gevent
from locust import User, between, constant, events, task

from loadtests.scenarios import hostile
from loadtests.scenarios.exchange import Exchange, Pause, post, stream
from loadtests.scenarios.records import Outcome, Record
from loadtests.scenarios.workload import (
    ADAPTER_HEADER,
    CHAT,
    Workload,
    chat_body,
    read_workload,
    zipf_choice,
)

_BURST_SECONDS = 10.0
_BURST_SIZE = 4
_SLOW_READ_SECONDS = 0.2


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_arguments(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--workload", required=True, help="JSON of loadtests.scenarios.workload")


class ScenarioUser(User):
    """Asks, judges the answer, notes a record, and tells Locust."""

    abstract = True
    wait_time = constant(0)

    def on_start(self) -> None:
        self.workload: Workload = read_workload(Path(self.environment.parsed_options.workload))
        self.draw = random.Random()

    def ask(self, model: str, prompt: str, pause: Pause | None = None) -> Outcome:
        """One streamed chat request, judged."""
        started = time.time()
        body = chat_body(model, prompt, self.workload.max_tokens)
        exchange = stream(str(self.host), CHAT, body, pause)
        outcome, note = self._judge(exchange, prompt)
        self.note(exchange, outcome, model=model, started=started, note=note)
        return outcome

    def note(
        self, exchange: Exchange, outcome: Outcome, *, model: str, started: float, note: str = ""
    ) -> None:
        """Write the record down, and count it in Locust's table."""
        scenario = type(self).__name__
        arrivals = exchange.arrivals
        record = Record(
            scenario=scenario,
            model=model,
            started=started,
            outcome=outcome,
            status=exchange.status,
            seconds=exchange.seconds,
            num_tokens=exchange.num_tokens or len(arrivals),
            ttft=arrivals[0] if arrivals else None,
            gaps=tuple(b - a for a, b in itertools.pairwise(arrivals)),
            note=note[:400],
        )
        with Path(self.workload.records).open("a", encoding="utf-8") as file:
            file.write(record.to_line())
        is_fault = outcome in (Outcome.WRONG, Outcome.FAULT, Outcome.BROKEN)
        self.environment.events.request.fire(
            request_type=scenario,
            name=outcome.value,
            response_time=exchange.seconds * 1e3,
            response_length=len(exchange.text),
            exception=RuntimeError(note) if is_fault else None,
            context={},
        )
        if outcome in (Outcome.BROKEN, Outcome.REFUSED) and exchange.status in (0, 429, 503):
            gevent.sleep(0.5)  # the server is away or full: don't spin

    def _judge(self, exchange: Exchange, prompt: str) -> tuple[Outcome, str]:
        if exchange.has_left:
            return Outcome.LEFT, ""
        if exchange.status in (429, 503):
            has_hint = "retry-after" in exchange.headers
            return (Outcome.REFUSED if has_hint else Outcome.FAULT), exchange.text
        if exchange.status not in (0, 200):
            return Outcome.FAULT, exchange.text
        if exchange.failure or not exchange.is_whole:
            return Outcome.BROKEN, exchange.failure or "the stream ended without [DONE]"
        digest = exchange.headers.get(ADAPTER_HEADER, "")
        is_right = self.workload.is_right(digest, prompt, exchange.text)
        if is_right is None:
            return Outcome.UNCHECKED, ""
        if is_right:
            return Outcome.RIGHT, ""
        return Outcome.WRONG, f"{digest} answered {exchange.text!r} to {prompt!r}"

    def any_model(self) -> str:
        return self.draw.choice(self.workload.models)

    def any_prompt(self) -> str:
        return self.draw.choice(self.workload.prompts)


class SteadyUser(ScenarioUser):
    """Closed loop: the next request when the last has ended, any adapter."""

    @task
    def steady(self) -> None:
        self.ask(self.any_model(), self.any_prompt())


class BurstUser(ScenarioUser):
    """All such users send several requests at once, at the same moments, and rest between."""

    @task
    def burst(self) -> None:
        gevent.sleep(_BURST_SECONDS - time.time() % _BURST_SECONDS)
        jobs = [
            gevent.spawn(self.ask, self.any_model(), self.any_prompt()) for _ in range(_BURST_SIZE)
        ]
        gevent.joinall(jobs)


class ZipfUser(ScenarioUser):
    """A few adapters are popular, most are rare: they come and go in the caches."""

    @task
    def zipf(self) -> None:
        self.ask(zipf_choice(self.workload.models, self.draw), self.any_prompt())


class LongPromptUser(ScenarioUser):
    """Long prompts between everybody's short ones."""

    wait_time = between(0.5, 2.0)

    @task
    def long_prompt(self) -> None:
        self.ask(self.any_model(), self.draw.choice(self.workload.long_prompts))


class SlowReaderUser(ScenarioUser):
    """Reads an event, rests, reads the next: nobody else may wait for it."""

    @task
    def slow(self) -> None:
        self.ask(self.any_model(), self.any_prompt(), self._rest)

    def _rest(self, num_events: int) -> bool:
        gevent.sleep(_SLOW_READ_SECONDS)
        return True


class DisconnectUser(ScenarioUser):
    """Hangs up in the middle of most answers."""

    wait_time = between(0.0, 0.3)

    @task
    def leave(self) -> None:
        last = self.draw.randint(0, 2 * self.workload.max_tokens)
        self.ask(self.any_model(), self.any_prompt(), lambda num_events: num_events < last)


class ChurnUser(ScenarioUser):
    """Replaces an adapter's bytes under its name, and asks for it in between."""

    wait_time = between(0.5, 1.5)

    @task
    def churn(self) -> None:
        started = time.time()
        name = self.workload.churn_name
        folder = self.draw.choice(self.workload.churn_folders)
        body = {"lora_name": name, "lora_path": folder, "load_inplace": True}
        exchange = post(str(self.host), "/v1/load_lora_adapter", json.dumps(body).encode())
        if exchange.failure:
            outcome = Outcome.BROKEN
        else:
            outcome = Outcome.UNCHECKED if exchange.status == 200 else Outcome.FAULT
            if exchange.status == 503 and "retry-after" in exchange.headers:
                outcome = Outcome.REFUSED  # it was killed, and loads its base
        note = exchange.failure or (exchange.text if exchange.status != 200 else "")
        self.note(exchange, outcome, model=name, started=started, note=note)
        self.ask(name, self.any_prompt())


class HostileUser(ScenarioUser):
    """Sends requests that must be refused with a 4xx, at once."""

    wait_time = between(0.1, 0.5)

    @task
    def hostile(self) -> None:
        started = time.time()
        attack = hostile.random_attack(self.draw)
        exchange = post(str(self.host), attack.path, attack.body, attack.headers)
        verdict = hostile.judge(exchange.status, exchange.failure, len(attack.body))
        note = "" if verdict is not Outcome.FAULT else f"{attack.name}: {exchange.text}"
        self.note(exchange, verdict, model=attack.name, started=started, note=note)
