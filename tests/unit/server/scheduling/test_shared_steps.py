"""What prompts take of a step that streams share: less, the more each of their tokens costs."""

from server.core.batch import StepOutput
from server.core.request import SamplingParams
from server.core.settings import SchedulerSettings
from server.core.stack import BASE_STACK
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence


def _sequence(sequence_id: int, length: int) -> Sequence:
    sampling = SamplingParams(max_tokens=500)
    return Sequence(
        sequence_id, tuple(range(1, length + 1)), sampling, BASE_STACK, seed=1, max_len=2000
    )


def _chunks(scheduler: Scheduler, num_steps: int) -> list[list[int]]:
    steps = []
    for _ in range(num_steps):
        plan = scheduler.schedule()
        assert plan is not None
        steps.append([len(row.token_ids) for row in plan.batch.rows])
        drawn = {row.sequence_id: 5 for row in plan.batch.rows if row.samples}
        scheduler.update(plan.batch, StepOutput(drawn))
        scheduler.check_integrity()
    return steps


def _scheduler(prefill_context_cost: int | None) -> Scheduler:
    settings = SchedulerSettings(
        max_model_len=2000,
        num_blocks=600,
        max_prefill_beside_decodes=32,
        prefill_context_cost=prefill_context_cost,
    )
    scheduler = Scheduler(settings, eos_token_ids=frozenset(), base_digest="x")
    scheduler.add(_sequence(1, 1))
    _chunks(scheduler, 1)
    return scheduler


def test_chunks_get_shorter_with_what_each_token_attends_to() -> None:
    scheduler = _scheduler(128)
    scheduler.add(_sequence(2, 1500))
    chunks = [step[1] for step in _chunks(scheduler, 40)]
    assert chunks[0] == 32
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[-1] <= 8
    behind = 0
    for chunk in chunks:
        assert chunk * (1 + behind / 128) <= 32 or chunk == 1
        behind += chunk


def test_two_long_prompts_share_what_one_may_take() -> None:
    scheduler = _scheduler(128)
    scheduler.add(_sequence(2, 1500))
    _chunks(scheduler, 30)
    alone = _chunks(scheduler, 1)[0][1]
    scheduler.add(_sequence(3, 1500))
    for step in _chunks(scheduler, 30)[5:]:
        assert sum(step[1:]) <= 32
    assert alone < 32


def test_without_the_setting_a_chunk_is_the_whole_budget() -> None:
    scheduler = _scheduler(None)
    scheduler.add(_sequence(2, 1500))
    assert [step[1] for step in _chunks(scheduler, 20)] == [32] * 20
