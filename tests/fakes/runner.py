"""A model runner whose tokens reveal every mistake in block tables, pages and positions.

It keeps a KV cache of real token ids and a bank of real digests, and "computes" the next token as a
hash of what it reads back through the block table and the work items. A wrong block, a stale page
or a neighbour's token changes the text.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.core.batch import ScheduledBatch, StepOutput
from server.core.errors import AdapterUnreadableError
from server.core.stack import AdapterStack, AdapterVersion
from server.core.traits import AdapterTraits

VOCABULARY = 97


@dataclass(frozen=True)
class FakeHostAdapter:
    digest: str
    num_pages: int
    size_bytes: int = 100

    @property
    def traits(self) -> AdapterTraits:
        return AdapterTraits(self.num_pages)


class FakeLoader:
    """Loads anything, except names that begin with `broken`."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def load(self, adapter: AdapterVersion, image: object = None) -> FakeHostAdapter:
        self.loads.append(adapter.digest)
        if adapter.name.startswith("broken"):
            raise AdapterUnreadableError(f"adapter {adapter.label} can't be served: broken")
        return FakeHostAdapter(adapter.digest, adapter.num_pages)


class FakeRunner:
    """See the module docstring. `fail_on` makes a step over that token raise;
    `step_seconds` is how long a step takes; adapters in `unplaceable` can't be placed."""

    def __init__(
        self, block_size: int, *, fail_on: int | None = None, step_seconds: float = 0.0
    ) -> None:
        self.block_size = block_size
        self.fail_on = fail_on
        self.step_seconds = step_seconds
        self.cache: dict[tuple[int, int], tuple[int, str]] = {}
        self.bank: dict[int, str] = {}
        self.batches: list[ScheduledBatch] = []
        self.unplaceable: set[str] = set()

    def place_adapter(self, pages: Sequence[int], adapter: FakeHostAdapter) -> None:
        if adapter.digest in self.unplaceable:
            raise RuntimeError("the copy to the device failed")
        for index, page in enumerate(pages):
            self.bank[page] = f"{adapter.digest}/{index}"

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        self.batches.append(batch)
        time.sleep(self.step_seconds)
        for row in batch.rows:
            if self.fail_on in row.token_ids:
                raise RuntimeError(f"token {self.fail_on} breaks this model")
        drawn: dict[int, int] = {}
        for row in batch.rows:
            adapters = "+".join(f"{self.bank[item.page]}*{item.scale}" for item in row.work)
            for offset, token in enumerate(row.token_ids):
                position = row.start + offset
                block = row.block_ids[position // self.block_size]
                self.cache[block, position % self.block_size] = (token, adapters)
            if row.samples:
                length = row.start + len(row.token_ids)
                seen = [
                    self.cache[row.block_ids[p // self.block_size], p % self.block_size]
                    for p in range(length)
                ]
                assert all(entry[1] == adapters for entry in seen), "another adapter's KV"
                drawn[row.sequence_id] = next_token([t for t, _ in seen], adapters, row.seed)
        return StepOutput(drawn)

    def memory_bytes(self) -> Mapping[str, int]:
        return {"weights": 1}

    def device_memory_bytes(self) -> Mapping[str, int]:
        return {"used": 3, "free": 2, "total": 5}


def next_token(tokens: Sequence[int], adapters: str, seed: int) -> int:
    """The token that the fake model draws after `tokens`."""
    text = f"{list(tokens)}|{adapters}|{seed}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) % VOCABULARY


def expected_tokens(
    prompt: Sequence[int], stack: AdapterStack, seed: int, count: int, eos: frozenset[int]
) -> list[int]:
    """What a request gets when it is all alone in the world."""
    adapters = "+".join(
        f"{member.adapter.digest}/{page}*{member.scale}"
        for member in stack.members
        for page in range(member.adapter.num_pages)
    )
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        tokens.append(next_token(tokens, adapters, seed))
        if tokens[-1] in eos:
            break
    return tokens[len(prompt) :]
