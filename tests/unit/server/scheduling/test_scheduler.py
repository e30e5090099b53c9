"""Random schedules leak nothing and change nobody's tokens."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.request import FinishReason
from server.core.settings import SchedulerSettings
from server.core.stack import BASE_STACK, AdapterStack, StackMember
from tests.unit.server.scheduling.world import ADAPTERS, EOS, SMALL, World

stacks = st.lists(
    st.tuples(st.sampled_from(ADAPTERS), st.sampled_from([1.0, 0.7, -0.3])),
    max_size=2,
    unique_by=lambda pair: pair[0].name,
).map(lambda pairs: AdapterStack(tuple(StackMember(a, s) for a, s in pairs)))
fitting = stacks.filter(lambda s: sum(m.adapter.num_pages for m in s.members) <= 5)
prompts = st.lists(st.integers(8, 11), min_size=1, max_size=20).map(tuple)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), prompts, fitting, st.integers(1, 24)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 4)),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(actions)
def test_random_schedules_leak_nothing_and_do_not_interfere(script: list[tuple]) -> None:
    world = World()
    for action in script:
        match action:
            case ("submit", prompt, stack, max_tokens):
                world.submit(prompt, stack, max_tokens)
            case ("abort", which):
                world.abort(which)
            case ("step", count):
                for _ in range(count):
                    world.step()
        world.scheduler.check_integrity()
    world.drain()
    assert set(world.ended) == set(world.sequences), "every sequence ends exactly once"
    assert world.scheduler.blocks.num_held == 0
    assert world.scheduler.slots.num_pinned == 0
    for sequence_id, reason in world.ended.items():
        got, expected = world.tokens[sequence_id], world.expected(sequence_id)
        if reason is FinishReason.ABORT:
            assert got == expected[: len(got)]
        else:
            assert got == expected
            assert reason is (FinishReason.STOP if got[-1] in EOS else FinishReason.LENGTH)


def test_preemption_recomputes_the_same_text() -> None:
    world = World()
    for start in range(3):
        world.submit((8, 9, 10, 11, 8 + start), BASE_STACK, 30, ignore_eos=True)
    world.drain()
    assert world.scheduler.num_preemptions > 0, "three times 35 tokens do not fit into 56"
    for sequence_id in world.sequences:
        assert world.tokens[sequence_id] == world.expected(sequence_id)


def test_decodes_come_first_and_prefill_takes_the_rest() -> None:
    world = World()
    first = world.submit((8,) * 4, BASE_STACK, 20)
    world.step()
    second = world.submit((9,) * 20, BASE_STACK, 20)
    world.step()
    rows = world.runner.batches[-1].rows
    assert [(row.sequence_id, len(row.token_ids)) for row in rows] == [(first, 1), (second, 8)]


def test_prompts_beside_decodes_are_bounded() -> None:
    world = World(dataclasses.replace(SMALL, max_prefill_beside_decodes=3))
    first = world.submit((8,) * 4, BASE_STACK, 20, ignore_eos=True)
    world.step()
    second = world.submit((9,) * 20, BASE_STACK, 4, ignore_eos=True)
    world.step()
    rows = world.runner.batches[-1].rows
    assert [(row.sequence_id, len(row.token_ids)) for row in rows] == [(first, 1), (second, 3)]
    world.drain()
    assert world.tokens[second] == world.expected(second)


def test_equal_prefixes_share_blocks_but_never_across_adapters() -> None:
    world = World()
    prompt = (8, 9, 10, 11) * 3
    for stack in (
        BASE_STACK,
        AdapterStack((StackMember(ADAPTERS[0]),)),
        AdapterStack((StackMember(ADAPTERS[0], 0.5),)),
    ):
        before = world.scheduler.blocks.num_prefix_hits
        world.submit(prompt, stack, 1)
        world.drain()
        assert world.scheduler.blocks.num_prefix_hits == before, "another stack's KV was reused"
        world.submit(prompt, stack, 1)
        world.drain()
        assert world.scheduler.blocks.num_prefix_hits == before + 2, "its own KV was not reused"


def test_a_greedy_adapter_cannot_starve_another() -> None:
    world = World()
    many = AdapterStack((StackMember(ADAPTERS[0]),))
    few = AdapterStack((StackMember(ADAPTERS[1]),))
    for _ in range(50):
        world.submit((8, 9, 10), many, 10)
    late = world.submit((8, 9, 10), few, 10)
    for _ in range(25):
        world.step()
    assert late in world.ended, "the second adapter waited behind fifty requests of the first"


def test_a_failed_step_frees_everything_and_the_adapter_is_placed_again() -> None:
    world = World()
    stack = AdapterStack((StackMember(ADAPTERS[2]),))
    world.submit((8, 9), stack, 5)
    plan = world.scheduler.schedule()
    assert plan is not None
    assert plan.placements
    world.scheduler.forget_placement(plan.placements[0].digest)
    updates = world.scheduler.fail_batch(plan.batch, "no memory")
    assert [u.finish_reason for u in updates] == [FinishReason.ERROR]
    world.scheduler.check_integrity()
    retry = world.submit((8, 9), stack, 5)
    world.drain()
    assert world.tokens[retry] == world.expected(retry)


def test_more_adapters_than_pages_take_turns() -> None:
    world = World()
    ids = [
        world.submit((8, 9, i + 8), AdapterStack((StackMember(adapter),)), 6)
        for i, adapter in enumerate(ADAPTERS)
    ]
    world.drain()
    assert world.scheduler.slots.num_evictions > 0
    for sequence_id in ids:
        assert world.tokens[sequence_id] == world.expected(sequence_id)


def test_settings_tell_all_problems_at_once() -> None:
    from server.core.errors import ConfigurationError

    with pytest.raises(ConfigurationError) as caught:
        SchedulerSettings(max_num_sequences=300, max_batch_tokens=10, num_blocks=1, block_size=0)
    text = str(caught.value)
    assert "block_size is 0" in text
    assert "max_batch_tokens is 10, less than max_num_sequences (300)" in text
