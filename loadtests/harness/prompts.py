"""Long prompts of a given length that never repeat, so that no prefix cache answers for them."""

import random
from collections.abc import Callable
from typing import Any

_WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part", "place",
    "case", "week", "company", "system", "program", "question", "work", "government", "number",
    "night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact", "month",
    "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side", "kind",
    "head", "house", "service", "friend", "father", "power", "hour", "game", "line", "end",
)  # fmt: skip
_MAX_ATTEMPTS = 20


def long_prompt(serial: int, num_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Random words, another text for each serial number, that `count_tokens` says are so many.

    Comes as near as whole words allow. The words are one token each in the usual vocabularies.
    """
    words = random.Random(serial).choices(_WORDS, k=num_tokens + _MAX_ATTEMPTS)
    num_words = num_tokens
    for _ in range(_MAX_ATTEMPTS):
        missing = num_tokens - count_tokens(" ".join(words[:num_words]))
        if missing == 0:
            break
        num_words = min(len(words), max(1, num_words + missing))
    return " ".join(words[:num_words])


def chat_token_counter(base_reference: str) -> Callable[[str], int]:
    """Counts the tokens of one user message in the base's chat template."""
    from adapters.base.loading import load_tokenizer
    from adapters.base.reference import resolve_base

    tokenizer, _ = load_tokenizer(resolve_base(base_reference))

    def count(text: str) -> int:
        chat = [{"role": "user", "content": text}]
        rendered: Any = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )
        return len(tokenizer(rendered, add_special_tokens=False)["input_ids"])

    return count
