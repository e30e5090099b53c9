"""Nobody starves, nobody pays for another's load. Counted in steps and tokens, never in time."""

import dataclasses
from collections import Counter
from collections.abc import Sequence as Many
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.settings import SchedulerSettings
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from server.scheduling.flow import Flow
from tests.unit.server.scheduling.world import ADAPTERS, SMALL, World


def stack(index: int) -> AdapterStack:
    return AdapterStack((StackMember(ADAPTERS[index]),))


CROWDED = dataclasses.replace(SMALL, crowding=1.0)
tenants = st.sampled_from([("a", 1.0), ("b", 3.0), ("", 1.0)])
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.lists(st.integers(8, 11), min_size=1, max_size=20).map(tuple),
            st.integers(0, len(ADAPTERS) - 1),
            st.integers(1, 24),
            tenants,
        ),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("no memory")),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(actions)
def test_sharing_and_lack_of_memory_leak_nothing_and_change_no_text(script: Many[tuple]) -> None:
    world = World(CROWDED)
    for action in script:
        match action:
            case ("submit", prompt, adapter, max_tokens, (tenant, weight)):
                world.submit(prompt, stack(adapter), max_tokens, tenant=tenant, weight=weight)
            case ("abort", which):
                world.abort(which)
            case ("step", count):
                for _ in range(count):
                    world.step()
            case _:
                world.fail_for_memory()
        world.scheduler.check_integrity()
    world.drain()
    assert set(world.ended) == set(world.sequences), "every sequence ends exactly once"
    assert world.scheduler.blocks.num_held == 0
    for sequence_id in world.ended:
        expected = world.expected(sequence_id)
        assert world.tokens[sequence_id] == expected[: len(world.tokens[sequence_id])]


LARGE = SchedulerSettings(
    max_num_sequences=16,
    max_batch_tokens=64,
    max_prefill_beside_decodes=16,
    crowding=0.5,
    max_model_len=128,
    block_size=8,
    num_blocks=512,
    num_adapter_pages=64,
    max_adapters_per_step=64,
)
MANY = [AdapterVersion(f"m{i}", 1, f"digest-m{i}", 8, ADAPTERS[0].path) for i in range(12)]


class Clients:
    """Closed loops: each client of a flow asks again when it has its answer.

    A step costs `5 + its tokens`, as a small model on a CPU; `waits` are costs until a first token.
    """

    def __init__(self, options: SchedulerSettings, clients: dict[Flow, int], **shape: int) -> None:
        self.world = World(options)
        self.clients = clients
        self.shape = {"prompt": 24, "answer": 16} | shape
        self.waits: dict[Flow, list[float]] = {flow: [] for flow in clients}
        self.served: Counter[Flow] = Counter()
        self.clock = 0.0
        self._asked: dict[int, float] = {}
        self._prompts = 0
        self.weights: dict[str, float] = {}

    def ask(self, flow: Flow) -> None:
        self._prompts += 1  # All different: no prefix is found in the cache.
        prompt = tuple(8 + (self._prompts // 89**i) % 89 for i in range(4))
        adapter = next(a for a in MANY if a.name == flow.stack)
        sequence_id = self.world.submit(
            prompt + (9,) * (self.shape["prompt"] - 4), AdapterStack((StackMember(adapter),)),
            self.shape["answer"], ignore_eos=True, tenant=flow.tenant,
            weight=self.weights.get(flow.tenant, 1.0),
        )  # fmt: skip
        self._asked[sequence_id] = self.clock

    def run(self, num_steps: int) -> None:
        for flow, count in self.clients.items():
            for _ in range(count):
                self.ask(flow)
        for _ in range(num_steps):
            ended = set(self.world.ended)
            assert self.world.step()
            batch = self.world.runner.batches[-1]
            self.clock += 5 + batch.num_tokens
            for row in batch.rows:
                sequence = self.world.sequences[row.sequence_id]
                self.served[sequence.flow] += len(row.token_ids)
                if row.samples and row.num_generated == 0:
                    asked = self._asked[row.sequence_id]
                    self.waits[sequence.flow].append(self.clock - asked)
            for sequence_id in set(self.world.ended) - ended:
                self.ask(self.world.sequences[sequence_id].flow)


NOISY = Flow("", "m0")
QUIET = [Flow("", f"m{i}") for i in range(1, 10)]


def mean_wait(clients: Clients) -> float:
    return fmean(wait for flow in QUIET for wait in clients.waits[flow][1:])


@pytest.mark.parametrize("answer", [8, 32])
@pytest.mark.parametrize("prompt", [8, 60])
def test_nine_keep_their_first_tokens_beside_one_with_fifty_times_the_load(
    prompt: int, answer: int
) -> None:
    quiet = dict.fromkeys(QUIET, 1)
    alone = Clients(LARGE, quiet, prompt=prompt, answer=answer)
    alone.run(300)
    beside = Clients(LARGE, {NOISY: 50, **quiet}, prompt=prompt, answer=answer)
    beside.run(300)
    assert mean_wait(alone) >= 0.8 * mean_wait(beside)
    # The noisy one isn't shut out.
    assert beside.served[NOISY] > 0.8 * fmean(beside.served[flow] for flow in QUIET)


def test_without_the_bound_the_nine_wait_longer() -> None:
    """What the bound is for; were this not so, the test above would prove nothing."""
    quiet = dict.fromkeys(QUIET, 1)
    alone = Clients(LARGE, quiet)
    alone.run(300)
    options = dataclasses.replace(LARGE, crowding=None)
    beside = Clients(options, {NOISY: 50, **quiet})
    beside.run(300)
    assert mean_wait(alone) < 0.8 * mean_wait(beside)


def test_one_flow_alone_has_the_whole_batch() -> None:
    clients = Clients(LARGE, {NOISY: 50}, prompt=4, answer=32)
    clients.run(60)
    assert max(len(batch.rows) for batch in clients.world.runner.batches) == 16


def test_a_newcomer_finds_a_place_at_once_in_a_full_house() -> None:
    clients = Clients(LARGE, {NOISY: 40}, prompt=8, answer=60)
    clients.run(20)
    assert clients.world.scheduler.num_running == 16
    clients.ask(QUIET[0])
    clients.world.step()
    rows = clients.world.runner.batches[-1].rows
    flows = {clients.world.sequences[row.sequence_id].flow for row in rows}
    assert QUIET[0] in flows
    assert clients.world.scheduler.num_preemptions == 1


def test_tenants_share_by_weight_however_many_adapters_they_use() -> None:
    heavy = {Flow("heavy", f"m{i}"): 6 for i in range(10)}
    light = {Flow("light", "m10"): 30}
    clients = Clients(LARGE, {**heavy, **light})
    clients.weights = {"heavy": 1.0, "light": 3.0}
    clients.run(300)
    by_tenant: Counter[str] = Counter()
    for flow, count in clients.served.items():
        by_tenant[flow.tenant] += count
    assert 2.0 < by_tenant["light"] / by_tenant["heavy"] < 4.0
    shares = [clients.served[flow] for flow in heavy]
    assert min(shares) > 0.5 * max(shares), "flows of one tenant are equal"


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=6),
    st.integers(4, 40),
    st.integers(1, 24),
    st.sampled_from([None, 0.0, 1.0, 4.0]),
)
def test_no_backlogged_flow_waits_long(
    counts: list[int], prompt: int, answer: int, crowding: float | None
) -> None:
    """Starvation is impossible: in any 60 steps every flow that has work is given some of them."""
    options = dataclasses.replace(LARGE, max_num_sequences=4, crowding=crowding)
    flows = [Flow("ab"[i % 2], f"m{i}") for i in range(len(counts))]
    clients = Clients(options, dict(zip(flows, counts, strict=True)), prompt=prompt, answer=answer)
    clients.run(1)
    for _ in range(3):
        before = clients.served.copy()
        for _ in range(60):
            ended = set(clients.world.ended)
            clients.world.step()
            for row in clients.world.runner.batches[-1].rows:
                flow = clients.world.sequences[row.sequence_id].flow
                clients.served[flow] += len(row.token_ids)
            for sequence_id in set(clients.world.ended) - ended:
                clients.ask(clients.world.sequences[sequence_id].flow)
        for flow in flows:
            assert clients.served[flow] > before[flow], f"{flow} had nothing in 60 steps"
