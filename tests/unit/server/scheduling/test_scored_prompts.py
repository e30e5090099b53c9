"""Prompts whose log probabilities are wanted take few tokens of a step that others share."""

from server.core.batch import StepOutput
from server.core.request import SamplingParams
from server.core.settings import SchedulerSettings
from server.core.stack import BASE_STACK
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence


def _sequence(sequence_id: int, length: int, prompt_logprobs: int | None) -> Sequence:
    sampling = SamplingParams(max_tokens=50, prompt_logprobs=prompt_logprobs)
    return Sequence(
        sequence_id, tuple(range(1, length + 1)), sampling, BASE_STACK, seed=1, max_len=1000
    )


def _rows_beside_a_stream(prompt_logprobs: int | None) -> list[int]:
    settings = SchedulerSettings(max_model_len=1000, num_blocks=200)
    scheduler = Scheduler(settings, eos_token_ids=frozenset(), base_digest="x")
    scheduler.add(_sequence(1, 1, None))
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.update(plan.batch, StepOutput({1: 5}))
    scheduler.add(_sequence(2, 200, prompt_logprobs))
    plan = scheduler.schedule()
    assert plan is not None
    return [len(row.token_ids) for row in plan.batch.rows]


def test_a_scored_chunk_is_short_beside_others() -> None:
    assert _rows_beside_a_stream(None) == [1, 200]
    assert _rows_beside_a_stream(20) == [1, 16]
