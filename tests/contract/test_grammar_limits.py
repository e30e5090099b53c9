"""A grammar that goes past its parser's limits in mid-answer is the request's fault: a 400."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
import torch

from server.core.batch import ScheduledRow, StepOutput
from server.core.request import FinishReason, SamplingParams
from server.core.stack import AdapterStack
from server.model.sampling.sampler import sample
from tests.fakes.api_app import FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_server import serve
from tests.unit.server.scheduling.world import World

HELLO: Any = [{"role": "user", "content": "Hello"}]


class LimitedMatcher:
    """Implements `TokenMatcher`; gives up after `limit` tokens."""

    is_complete = False

    def __init__(self, limit: int) -> None:
        self._num_left = limit

    def allowed(self) -> bytes:
        return b"\xff"

    def accept(self, token_id: int) -> None:
        self._num_left -= 1

    @property
    def error(self) -> str:
        return "" if self._num_left > 0 else "too many items"


@pytest.mark.parametrize(("limit", "is_refused"), [(0, True), (1, True), (2, False)])
def test_the_sampler_refuses_before_and_behind_the_drawn_token(
    limit: int, is_refused: bool
) -> None:
    row = ScheduledRow(
        5, (1,), 0, (0,), (), SamplingParams(max_tokens=4, temperature=0.0), True, 0, 0,
        matcher=LimitedMatcher(limit),
    )  # fmt: skip
    draws = sample(torch.arange(8.0)[None], [row], {5: b"\xff"})
    assert draws.failed == {}
    assert (5 in draws.refused) == is_refused
    assert (5 in draws.token_ids) != is_refused


def test_the_scheduler_ends_the_refused_one_alone() -> None:
    world = World()
    bad = world.submit((8, 9), AdapterStack(), 5, ignore_eos=True)
    good = world.submit((8, 10), AdapterStack(), 5, ignore_eos=True)
    plan = world.scheduler.schedule()
    assert plan is not None
    drawn = world.runner.execute(plan.batch).token_ids
    output = StepOutput({good: drawn[good]}, refused={bad: "too many items"})
    updates = {update.sequence_id: update for update in world.scheduler.update(plan.batch, output)}
    assert updates[bad].finish_reason is FinishReason.REFUSED
    assert updates[bad].error == "too many items"
    assert updates[good].finish_reason is None
    world.scheduler.check_integrity()
    world.tokens[good].append(drawn[good])
    world.drain()
    assert world.tokens[good] == world.expected(good)


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    engine = FakeEngine(fail_after=2, fail_reason=FinishReason.REFUSED)
    with ExitStack() as stack:
        address = stack.enter_context(serve(FakeServing(engine).app()))
        yield stack.enter_context(
            openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
        )


def test_a_whole_answer_is_a_400_that_says_why(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="can't be finished") as caught:
        client.chat.completions.create(model="sql", messages=HELLO)
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="can't be finished"):
        client.completions.create(model="sql", prompt="Hello")


def test_a_stream_ends_with_the_same_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="can't be finished") as caught:
        list(client.chat.completions.create(model="sql", messages=HELLO, stream=True))
    assert caught.value.type == "invalid_request_error"
