"""A scheduler that runs over a fake model, checked after every step."""

from pathlib import Path

from server.core.request import FinishReason, SamplingParams
from server.core.settings import SchedulerSettings
from server.core.stack import AdapterStack, AdapterVersion
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from tests.fakes.runner import FakeHostAdapter, FakeRunner, expected_tokens

EOS = frozenset({7})
ADAPTERS = [
    AdapterVersion(f"a{i}", 1, f"digest-{i}", rank, Path("none"))
    for i, rank in enumerate((4, 8, 16, 24, 8))
]
SMALL = SchedulerSettings(
    max_num_sequences=4,
    max_batch_tokens=9,
    max_model_len=40,
    max_adapters_per_step=3,
    block_size=4,
    num_blocks=14,
    num_adapter_pages=5,
    max_lora_rank=24,
)


class World:
    """A scheduler, a fake runner, and the tokens that each sequence received."""

    def __init__(self, options: SchedulerSettings = SMALL) -> None:
        self.scheduler = Scheduler(options, eos_token_ids=EOS, base_digest="base")
        self.runner = FakeRunner(options.block_size)
        self.options = options
        self.sequences: dict[int, Sequence] = {}
        self.tokens: dict[int, list[int]] = {}
        self.ended: dict[int, FinishReason] = {}

    def submit(
        self,
        prompt: tuple[int, ...],
        stack: AdapterStack,
        max_tokens: int,
        *,
        ignore_eos: bool = False,
        tenant: str = "",
        weight: float = 1.0,
    ) -> int:
        sequence_id = len(self.sequences)
        sequence = Sequence(
            sequence_id,
            prompt,
            SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos),
            stack,
            seed=sequence_id % 3,
            max_len=self.options.max_model_len,
            tenant=tenant,
            weight=weight,
        )
        self.sequences[sequence_id] = sequence
        self.tokens[sequence_id] = []
        self.scheduler.add(sequence)
        return sequence_id

    def abort(self, sequence_id: int) -> None:
        if self.scheduler.finish(sequence_id, FinishReason.ABORT):
            self.ended[sequence_id] = FinishReason.ABORT

    def step(self) -> bool:
        plan = self.scheduler.schedule()
        if plan is None:
            return False
        assert plan.batch.num_tokens <= self.options.max_batch_tokens
        for placement in plan.placements:
            adapter = FakeHostAdapter(placement.digest, len(placement.pages))
            self.runner.place_adapter(placement.pages, adapter)
        for update in self.scheduler.update(plan.batch, self.runner.execute(plan.batch)):
            if update.token_id is not None:
                self.tokens[update.sequence_id].append(update.token_id)
            if update.finish_reason is not None:
                assert update.sequence_id not in self.ended, "ended twice"
                self.ended[update.sequence_id] = update.finish_reason
        self.scheduler.check_integrity()
        return True

    def fail_for_memory(self) -> None:
        """A step that the runner had no memory for."""
        plan = self.scheduler.schedule()
        if plan is None:
            return
        for placement in plan.placements:
            adapter = FakeHostAdapter(placement.digest, len(placement.pages))
            self.runner.place_adapter(placement.pages, adapter)
        if self.scheduler.shrink(plan.batch):
            return
        for update in self.scheduler.fail_batch(plan.batch, "no memory"):
            self.ended[update.sequence_id] = FinishReason.ERROR

    def drain(self) -> None:
        for _ in range(5000):
            if not self.scheduler.has_work:
                return
            assert self.step(), "work is left but nothing runs"
        raise AssertionError("the schedule does not end")

    def expected(self, sequence_id: int) -> list[int]:
        sequence = self.sequences[sequence_id]
        prompt = sequence.token_ids[: sequence.num_prompt]
        count = min(sequence.sampling.max_tokens, self.options.max_model_len - len(prompt))
        eos = frozenset() if sequence.sampling.ignore_eos else EOS
        return expected_tokens(prompt, sequence.stack, sequence.seed, count, eos)
