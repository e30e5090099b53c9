"""Stacks of kinds, and what scheduling does to them: chunks, preemption, shared prefixes."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtests.fixtures.kinds_factory import INVOCATION, KINDS, VIRTUAL_KINDS
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from server.core.traits import AdapterTraits, stack_problem
from tests.unit.server.model.kinds_world import LOGITS_ATOL, NUM_TOKENS, PROMPT, World
from tests.unit.server.model.tiny import BLOCK_SIZE

EIGHT = [
    ("lora", 0.7), ("rslora", -0.5), ("patterns", 1.5), ("saved_embedding", 0.6), ("adalora", 0.9),
    ("ia3", 1.0), ("saved_head", 0.5), ("lora_on_head", -1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    "stack",
    [
        [("dora", -0.5), ("lora", 2.0)],
        [("ia3", 1.0), ("rslora", 0.3)],
        [("saved_embedding", 0.5), ("saved_head", 1.5)],
        EIGHT,
    ],
)
def test_a_stack_is_the_exact_sum_of_the_changes(
    llama_world: World, stack: list[tuple[str, float]]
) -> None:
    (answer,) = llama_world.engine().generate([(PROMPT, stack)], NUM_TOKENS)
    tokens, logits = llama_world.summed(stack)
    assert answer.token_ids == tokens
    torch.testing.assert_close(answer.logits, logits, atol=2 * LOGITS_ATOL, rtol=0)


def test_chunks_preemption_and_a_warm_cache_change_nothing(llama_world: World) -> None:
    """Blocks for three of the requests at once, prompts in pieces; then all again, from cache."""
    engine = llama_world.engine(
        max_model_len=40, num_blocks=20, max_batch_tokens=8, max_num_sequences=8
    )
    names = [*VIRTUAL_KINDS, "alora", "dora", "lora_with_tokens", ""]
    for _ in range(2):
        requests = [(PROMPT, [(name, 1.0)] if name else []) for name in names]
        for name, answer in zip(names, engine.generate(requests, NUM_TOKENS), strict=True):
            tokens, logits = llama_world.expected[name]
            assert answer.token_ids == tokens, name
            torch.testing.assert_close(answer.logits, logits, atol=LOGITS_ATOL, rtol=0)
    assert engine.scheduler.num_preemptions > 0
    assert engine.scheduler.blocks.num_held == 0
    assert engine.scheduler.slots.num_pinned == 0


def test_an_activated_lora_shares_the_base_prefix_before_its_invocation(
    llama_world: World,
) -> None:
    engine = llama_world.engine()
    engine.generate([(PROMPT, [])], 1)
    before = engine.scheduler.blocks.num_prefix_hits
    (answer,) = engine.generate([(PROMPT, [("alora", 1.0)])], NUM_TOKENS)
    wholly_before = PROMPT.index(INVOCATION[0]) // BLOCK_SIZE
    assert engine.scheduler.blocks.num_prefix_hits - before == wholly_before > 0
    tokens, logits = llama_world.expected["alora"]
    assert answer.token_ids == tokens
    torch.testing.assert_close(answer.logits, logits, atol=LOGITS_ATOL, rtol=0)


@st.composite
def stacks(draw: st.DrawFn) -> list[tuple[str, float]]:
    """Up to four kinds that have a sum, with scales from -1.5 to 1.5."""
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=4, unique=True))
    virtual = [name for name in names if name in VIRTUAL_KINDS][1:]
    return [
        (name, 1.0 if name in (*VIRTUAL_KINDS, "ia3") else draw(st.sampled_from([-1.5, 0.3, 1.0])))
        for name in names
        if name not in virtual and not (name == "ia3" and "dora" in names)
    ]


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=st.lists(st.tuples(st.integers(0, 3), stacks()), min_size=2, max_size=6))
def test_any_mixed_batch_gives_each_row_what_it_gets_alone(
    llama_world: World, batch: list[tuple[int, list[tuple[str, float]]]]
) -> None:
    engine = llama_world.engine(max_batch_tokens=32)
    requests = [(PROMPT[cut:], stack) for cut, stack in batch]
    for request, mixed in zip(requests, engine.generate(requests, 2), strict=True):
        engine.forget_cache()
        (alone,) = engine.generate([request], 2, follow=[mixed.token_ids])
        torch.testing.assert_close(alone.logits, mixed.logits, atol=LOGITS_ATOL, rtol=0)


@pytest.mark.parametrize(
    ("traits", "scales", "reason"),
    [
        ([{"is_dora": True}] * 2, [1, 1], "DoRA adapters a@1 and b@1: each is normed"),
        ([{"is_ia3": True}] * 2, [1, 1], "their factors multiply and don't add up"),
        ([{"num_virtual_tokens": 4}] * 2, [1, 1], "only one can come first in a sequence"),
        ([{"is_ia3": True}], [0.5], "adapter a@1 .IA3. has the scale 0.5; it can only be used"),
        ([{"num_virtual_tokens": 4}], [2.0], "can only be used whole, with scale 1"),
        ([{"is_dora": True}, {}, {"is_ia3": True}], [1, 1, 1], "DoRA and IA3 adapters a@1 and c@1"),
        ([{"is_dora": True}, {}, {"num_virtual_tokens": 2}], [-0.5, 3, 1], None),
    ],
)
def test_what_has_no_exact_sum_is_refused_with_the_reason(
    traits: list[dict[str, int]], scales: list[float], reason: str | None
) -> None:
    members = tuple(
        StackMember(AdapterVersion(name, 1, name, 8, Path()), scale)
        for name, scale in zip("abc", scales, strict=False)
    )
    found = stack_problem(AdapterStack(members), [AdapterTraits(1, **t) for t in traits])
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(reason, found), found
