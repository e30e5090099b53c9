"""One choice of one request on its way through the engine."""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

from server.core.batch import ScheduledRow, WorkItem
from server.core.request import FinishReason, SamplingParams
from server.core.stack import AdapterStack
from server.scheduling.flow import Flow


class SequencePhase(Enum):
    """Where a sequence is; it only moves down this list, except RUNNING -> WAITING (preemption)."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens, progress and holdings of one choice. Owned by the scheduler, changed only there."""

    def __init__(
        self,
        sequence_id: int,
        prompt_token_ids: tuple[int, ...],
        sampling: SamplingParams,
        stack: AdapterStack,
        *,
        seed: int,
        max_len: int,
        tenant: str = "",
        weight: float = 1.0,
    ) -> None:
        """`max_len` bounds prompt and answer together, in tokens.

        `weight` is the tenant's share relative to other tenants.
        """
        assert 0 < len(prompt_token_ids) < max_len
        self.sequence_id = sequence_id
        self.token_ids = list(prompt_token_ids)
        self.num_prompt = len(prompt_token_ids)
        self.sampling = sampling
        self.stack = stack
        self.flow = Flow(tenant, stack.label)
        self.weight = weight
        self.last_step = 0
        self.seed = seed
        self.max_len = min(max_len, self.num_prompt + sampling.max_tokens)
        self.phase = SequencePhase.WAITING
        self.num_computed = 0
        self.num_preemptions = 0
        self.block_ids: list[int] = []
        self.chain: bytes = b""
        self.num_registered = 0
        self.work: tuple[WorkItem, ...] = ()
        self.finish_reason: FinishReason | None = None
        # The same bytes under two names are one adapter to the bank.
        self.adapter_pages = {m.adapter.digest: m.adapter.num_pages for m in stack.members}

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Tokens whose KV isn't computed yet; 1 for a sequence that decodes."""
        return len(self.token_ids) - self.num_computed

    def row(self, num_tokens: int) -> ScheduledRow:
        """The next `num_tokens` tokens, as one row of a step."""
        start = self.num_computed
        return ScheduledRow(
            sequence_id=self.sequence_id,
            token_ids=self.token_ids[start : start + num_tokens],
            start=start,
            block_ids=self.block_ids,
            work=self.work,
            sampling=self.sampling,
            samples=start + num_tokens == len(self.token_ids),
            seed=self.seed,
            num_generated=self.num_generated,
        )

    def resolve_work(self, pages: Mapping[str, tuple[int, ...]]) -> None:
        """Fix the work items, given the bank pages of each adapter digest."""
        self.work = tuple(
            WorkItem(page, member.scale)
            for member in self.stack.members
            for page in pages[member.adapter.digest]
        )


def count_pins(sequences: Iterable[Sequence]) -> dict[str, int]:
    """Pins that `sequences` ought to hold, by adapter digest."""
    return dict(Counter(digest for sequence in sequences for digest in sequence.adapter_pages))
