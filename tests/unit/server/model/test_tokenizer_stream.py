"""A stream goes on where its prompt ended: sentencepiece's leading space, characters in halves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from server.core.chat import ChatPrompt
from server.core.errors import RequestError
from server.model.rendering.render_worker import rendered
from server.model.tokenizer import TransformersTokenizer

VOCABULARY = {"<unk>": 0, "▁Hello": 1, "▁world": 2, "!": 3}
BYTES = 4


def sentencepiece_like() -> Any:
    vocabulary = VOCABULARY | {f"<0x{i:02X}>": BYTES + i for i in range(256)}
    rust = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>")


TOKENIZER = TransformersTokenizer(sentencepiece_like(), eos_token_ids=frozenset())


def test_the_first_word_keeps_its_space_behind_a_prompt() -> None:
    stream = TOKENIZER.stream((1,))
    assert [stream.push(token) for token in (2, 3)] == [" world", "!"]
    alone = TOKENIZER.stream()
    assert alone.push(2) == "world"


@given(
    prompt=st.lists(st.integers(1, 3), max_size=12),
    words=st.lists(st.one_of(st.integers(1, 3), st.sampled_from("äé🙂")), max_size=10),
)
def test_prompt_and_answer_read_as_one_text(prompt: list[int], words: list[int | str]) -> None:
    answer: list[int] = []
    for word in words:
        answer += [word] if isinstance(word, int) else [BYTES + b for b in word.encode()]
    stream = TOKENIZER.stream(prompt)
    pieces = [stream.push(token) for token in answer]
    text = "".join([*pieces, stream.flush()])
    assert TOKENIZER.decode(prompt) + text == TOKENIZER.decode([*prompt, *answer])
    assert all("\ufffd" not in piece for piece in pieces)


def test_a_prompt_that_ends_in_half_a_character_is_not_repeated() -> None:
    stream = TOKENIZER.stream((1, BYTES + 0xC3))
    text = stream.push(BYTES + 0xA4) + stream.push(1) + stream.flush()
    assert text.count("Hello") == 1


def test_a_template_of_its_own_is_rendered_instead_of_the_bases() -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(RequestError, match="no chat template"):
        TOKENIZER.render_order(ChatPrompt(messages), 64)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}"
    prompt = ChatPrompt(messages, template=template, template_arguments={"mood": "!"})
    order = TOKENIZER.render_order(prompt, 64)
    assert TOKENIZER.decode(TOKENIZER.encode_rendered(order, rendered(order))) == "x!"
