"""Sends engine requests off and their answer back: whole, or as a stream."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.answers.deltas import collect, generate_all, without_answer
from server.api.answers.format import AnswerFormat, AnswerHead, CachedPrompts, Usage, WholeChoice
from server.api.answers.streaming import AnswerStream, StreamResponse
from server.api.generation.resolution import ServedModel
from server.api.requests.disconnect import await_while_connected
from server.api.requests.side_work import SideWork
from server.api.settings import ApiSettings
from server.core.ports import GenerationEngine
from server.core.request import GenerationRequest

_MAX_INLINE_SCORES = 2048
"""Log probabilities that are written on the event loop."""

Choose = Callable[[Sequence[WholeChoice]], Sequence[WholeChoice]]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that generating one HTTP answer takes.

    `choose` picks the choices that go out of those that were generated (`best_of`). With
    `hides_answer` the engine's one token is kept back: only the prompt was asked about.
    """

    requests: Sequence[GenerationRequest]
    answer: AnswerFormat
    headers: Mapping[str, str]
    streams: bool
    hides_answer: bool = False
    choose: Choose = lambda choices: choices

    @property
    def num_choices(self) -> int:
        return sum(request.num_choices for request in self.requests)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(request.prompt_token_ids) for request in self.requests)


class Answering:
    """Runs jobs on the engine."""

    def __init__(self, engine: GenerationEngine, settings: ApiSettings, side: SideWork) -> None:
        self._engine = engine
        self._settings = settings
        self._side = side

    async def answer(self, request: Request, job: Job) -> Response:
        """The HTTP answer of a job; the client's leaving aborts it."""
        deltas = generate_all(self._engine, job.requests)
        if job.hides_answer:
            deltas = without_answer(deltas)
        cached = CachedPrompts(job.requests[0].num_choices)
        if job.streams:
            stream = AnswerStream(
                deltas,
                job.answer,
                num_choices=job.num_choices,
                num_prompt_tokens=job.num_prompt_tokens,
                cached=cached,
            )
            await stream.open(request.receive, self._settings.opening_seconds)
            return StreamResponse(stream, headers=job.headers, settings=self._settings)
        collecting = asyncio.create_task(collect(deltas, job.num_choices, cached))
        await await_while_connected(collecting, request.receive)
        choices = collecting.result()
        num_tokens = sum(choice.num_tokens for choice in choices)
        usage = Usage(job.num_prompt_tokens, num_tokens, cached.num_tokens)
        num_scores = sum(request.num_scores for request in job.requests) + sum(
            choice.num_tokens * (1 + (job.requests[0].sampling.logprobs or 0))
            for choice in choices
            if job.requests[0].sampling.logprobs is not None
        )
        if num_scores <= _MAX_INLINE_SCORES:
            return JSONResponse(job.answer.whole(job.choose(choices), usage), headers=job.headers)
        content = await self._side.run(
            lambda: in_pieces(job.answer.whole(job.choose(choices), usage))
        )
        return Response(content, headers=job.headers, media_type="application/json")


def in_pieces(value: Any) -> bytes:
    """The bytes of a `JSONResponse`, made so that other threads get their turn.

    The standard encoder's fast way holds Python's lock until the whole text is there.
    """
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "".join(encoder.iterencode(value)).encode()


def answer_head(prefix: str, served: ServedModel) -> AnswerHead:
    """An answer's id, time and model."""
    return AnswerHead(prefix + secrets.token_hex(12), int(time.time()), served.expression)


def answer_headers(served: ServedModel, head: AnswerHead) -> dict[str, str]:
    return {**served.headers, "x-request-id": head.answer_id}


def best_choices(num_tries: int, num_wanted: int) -> Choose:
    """Of each prompt's `num_tries` choices the `num_wanted` that the model found most probable."""
    if num_tries == num_wanted:
        return lambda choices: choices

    def choose(choices: Sequence[WholeChoice]) -> Sequence[WholeChoice]:
        chosen: list[WholeChoice] = []
        for first in range(0, len(choices), num_tries):
            tries = choices[first : first + num_tries]
            chosen += sorted(tries, key=lambda choice: -choice.mean_logprob)[:num_wanted]
        return chosen

    return choose
