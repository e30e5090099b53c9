"""Closed-loop clients: each sends its next request when the last one has ended."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.harness.http_client import HttpConnection, StreamRecord, StreamTimings, read_timings
from loadtests.harness.report import CellResult, summarise

QUESTIONS = (
    "What is the capital of France?",
    "Name three fruits that are yellow.",
    "How do I boil an egg?",
    "Why is the sky blue?",
    "Write a short greeting for a customer.",
    "What does a compiler do?",
    "Tell me about the river Nile.",
    "Give me a tip for better sleep.",
    "What is photosynthesis?",
    "Explain gravity to a child.",
    "How many days has a leap year?",
    "What is a good name for a cat?",
    "Describe a sunset in two sentences.",
    "What is the difference between a list and a tuple?",
    "Who wrote Hamlet?",
    "How do bees make honey?",
    "What should I pack for a day in the mountains?",
    "Summarise the story of Cinderella.",
    "What is a prime number?",
    "How does a bicycle stay upright?",
    "Suggest a quick dinner with rice.",
    "What causes the tides?",
    "Write a line of thanks to a teacher.",
    "What is the largest ocean?",
    "How do I remove a stain from a shirt?",
    "What is inflation?",
    "Name two rivers in Asia.",
    "How do vaccines work?",
    "Give an example of a simile.",
    "What is the boiling point of water?",
    "How do I learn to play chess?",
    "What is a black hole?",
)


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What every request asks for: so many tokens, and whether to go on past the end of turn."""

    num_tokens: int = 64
    ignore_eos: bool = True


def chat_body(model: str, serial: int, shape: AnswerShape) -> dict[str, Any]:
    """The body of request number `serial`: greedy, streamed, with usage.

    The number stands before the question, so that no prompt repeats and a prefix cache can't
    answer for the prefill.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt_text(serial)}],
        "max_tokens": shape.num_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if shape.ignore_eos:
        body["ignore_eos"] = True
    return body


def prompt_text(serial: int) -> str:
    """The same text for the same number, in every run."""
    return f"({serial}) {QUESTIONS[serial % len(QUESTIONS)]}"


BodyMaker = Callable[[str, int, AnswerShape], dict[str, Any]]


class ClosedLoop:
    """Runs grid cells against one server. Serial numbers go on from cell to cell.

    Loops over the same server and the same models share `serials`: else the second one's prompts
    are in the server's prefix cache.
    """

    def __init__(
        self,
        label: str,
        url: str,
        shape: AnswerShape,
        make_body: BodyMaker = chat_body,
        *,
        serials: Iterator[int] | None = None,
    ) -> None:
        self._label = label
        self._url = url
        self._shape = shape
        self._make_body = make_body
        self._serials = itertools.count() if serials is None else serials

    async def warm_up(self, models: Sequence[str], num_clients: int) -> None:
        """Every model once and every width up to `num_clients`, with short answers."""
        short = AnswerShape(4, self._shape.ignore_eos)
        await self._run(models, num_clients, -(-len(models) // num_clients), short)

    async def measure(
        self, models: Sequence[str], num_clients: int, num_requests_each: int, num_adapters: int
    ) -> CellResult:
        """One cell: request k goes to `models[k % len(models)]`.

        Raises `HttpClientError` when any request fails: a number over failures means nothing.
        """
        cpu_before = time.process_time()
        records = await self._run(models, num_clients, num_requests_each, self._shape)
        cpu_seconds = time.process_time() - cpu_before
        timings: list[StreamTimings] = [read_timings(record) for record in records]
        return summarise(self._label, num_clients, num_adapters, timings, cpu_seconds)

    async def _run(
        self, models: Sequence[str], num_clients: int, num_requests_each: int, shape: AnswerShape
    ) -> list[StreamRecord]:
        turns = itertools.cycle(models)
        records: list[StreamRecord] = []

        async def client() -> None:
            connection = HttpConnection(self._url)
            try:
                for _ in range(num_requests_each):
                    body = self._make_body(next(turns), next(self._serials), shape)
                    records.append(await connection.stream("/v1/chat/completions", body))
            finally:
                connection.close()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(num_clients):
                    group.create_task(client())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the others were cancelled or say the same
        return records
