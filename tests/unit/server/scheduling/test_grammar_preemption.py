"""A sequence keeps its place in its grammar when its blocks are taken away and computed again."""

from server.core.batch import ScheduledBatch, StepOutput
from server.core.request import SamplingParams
from server.core.stack import AdapterStack
from server.scheduling.sequence import Sequence
from tests.fakes.runner import FakeRunner
from tests.unit.server.scheduling.world import SMALL, World


class RecordingMatcher:
    """Implements `TokenMatcher`; remembers what it was moved on by."""

    error = ""
    is_complete = False

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def allowed(self) -> bytes:
        return b"\xff" * 16

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


class FollowingRunner(FakeRunner):
    """Moves each row's matcher on by the drawn token, as the sampler does."""

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        for row in batch.rows:
            if row.samples:
                assert isinstance(row.matcher, RecordingMatcher)
                generated = list(row.history)[len(row.history) - row.num_generated :]
                assert row.matcher.accepted == generated, "the matcher isn't where the text is"
        output = super().execute(batch)
        for row in batch.rows:
            if row.samples:
                assert row.matcher is not None
                row.matcher.accept(output.token_ids[row.sequence_id])
        return output


def test_a_matcher_survives_preemption() -> None:
    world = World()
    world.runner = FollowingRunner(SMALL.block_size)
    matchers = [RecordingMatcher() for _ in range(3)]
    for index, matcher in enumerate(matchers):
        sequence = Sequence(
            index,
            (8, 9, 10, 11, 8 + index),
            SamplingParams(max_tokens=30, ignore_eos=True),
            AdapterStack(),
            seed=index,
            max_len=SMALL.max_model_len,
            matcher=matcher,
        )
        world.sequences[index], world.tokens[index] = sequence, []
        world.scheduler.add(sequence)
    world.drain()
    assert world.scheduler.num_preemptions > 0, "three times 35 tokens do not fit into 56"
    for index, matcher in enumerate(matchers):
        assert world.tokens[index] == world.expected(index)
        assert matcher.accepted == world.tokens[index]
        assert len(matcher.accepted) == 30
