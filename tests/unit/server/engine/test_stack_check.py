"""What a request's stack must be, once its adapters are in host memory."""

from pathlib import Path

import pytest

from server.core.errors import AdapterTooLargeError, PromptTooLongError, RequestError
from server.core.request import GenerationRequest, SamplingParams
from server.core.settings import SchedulerSettings
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from server.core.traits import AdapterTraits
from server.engine.stack_check import check_stack

SETTINGS = SchedulerSettings(max_model_len=64, num_adapter_pages=8)


def check(*traits: AdapterTraits, prompt: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    members = tuple(
        StackMember(AdapterVersion(f"a{i}", 1, f"digest-{i}", 8, Path()))
        for i in range(len(traits))
    )
    request = GenerationRequest("r", prompt, SamplingParams(max_tokens=4), AdapterStack(members))
    check_stack(request, traits, SETTINGS)


def test_sound_stacks_pass() -> None:
    check()
    check(AdapterTraits(4), AdapterTraits(4, num_virtual_tokens=59))
    check(AdapterTraits(1, invocation_token_ids=(2, 3)))


def test_a_stack_without_a_sum() -> None:
    with pytest.raises(RequestError, match="can't hold the DoRA adapters a0@1 and a1@1"):
        check(AdapterTraits(1, is_dora=True), AdapterTraits(1, is_dora=True))


def test_more_pages_than_the_bank_has() -> None:
    with pytest.raises(AdapterTooLargeError, match="needs 9 adapter pages; the bank has 8"):
        check(AdapterTraits(5), AdapterTraits(4))


def test_virtual_tokens_count_in_the_window() -> None:
    with pytest.raises(PromptTooLongError, match="has 4 tokens and the adapter puts 60 virtual"):
        check(AdapterTraits(1, num_virtual_tokens=60))


def test_an_activated_lora_that_would_never_act() -> None:
    with pytest.raises(RequestError, match=r"acts from its invocation tokens \[9, 9\] on"):
        check(AdapterTraits(1, invocation_token_ids=(9, 9)))
