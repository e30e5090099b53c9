"""Long prompts have the length asked for and never repeat."""

import pytest

from loadtests.harness.prompts import long_prompt


def count_words_and_template(text: str) -> int:
    return len(text.split()) + 31


@pytest.mark.parametrize("num_tokens", [32, 100, 512])
def test_a_prompt_has_so_many_tokens_with_its_template(num_tokens: int) -> None:
    text = long_prompt(3, num_tokens, count_words_and_template)
    assert count_words_and_template(text) == num_tokens


def test_words_of_two_tokens_come_as_near_as_they_can() -> None:
    text = long_prompt(0, 101, lambda t: 2 * len(t.split()))
    assert abs(2 * len(text.split()) - 101) <= 101


def test_no_two_prompts_begin_alike() -> None:
    beginnings = {" ".join(long_prompt(s, 64, lambda t: len(t.split())).split()[:8])
                  for s in range(50)}  # fmt: skip
    assert len(beginnings) == 50
    assert long_prompt(7, 64, lambda t: len(t.split())) == long_prompt(
        7, 64, lambda t: len(t.split())
    )
