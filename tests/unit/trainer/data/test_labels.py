"""Loss masks: exactly the assistant's turns and their end tokens, whatever the template."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trainer.tiny import (
    CHATML,
    ENDLESS,
    FORGETFUL,
    LLAMA3,
    MISTRAL,
    SPECIAL_TOKENS,
    byte_tokenizer,
)
from trainer.data.conversation import Conversation, Turn
from trainer.data.labels import ConversationLabeller
from trainer.data.report import loss_spans, marked_text
from trainer.errors import TemplateError

TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
    .map(str.strip)
    .filter(lambda text: text and not any(token in text for token in SPECIAL_TOKENS))
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    pairs = draw(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
    turns = [Turn("system", draw(TEXTS))] if draw(st.booleans()) else []
    for question, answer in pairs:
        turns += [Turn("user", question), Turn("assistant", answer)]
    return Conversation(tuple(turns))


def loss_texts(conversation: Conversation, labeller: ConversationLabeller) -> list[str]:
    """The decoded loss-bearing text of all rows of a conversation, row after row."""
    return [
        labeller.decode(ids)
        for labelled in labeller.label(conversation)
        for carries_loss, ids in loss_spans(labelled.row)
        if carries_loss
    ]


@pytest.mark.parametrize(
    ("template", "before", "end"),
    [(CHATML, "", "<|im_end|>"), (LLAMA3, "", "<|eot|>"), (MISTRAL, " ", "<|eot|>")],
)
@settings(deadline=None, max_examples=30)
@given(conversation=conversations())
def test_decoded_loss_tokens_are_the_answers_and_their_end_tokens(
    template: str, before: str, end: str, conversation: Conversation
) -> None:
    labeller = ConversationLabeller(byte_tokenizer(), template)
    answers = [turn.content for turn in conversation.turns if turn.role == "assistant"]
    assert loss_texts(conversation, labeller) == [f"{before}{answer}{end}" for answer in answers]


@settings(deadline=None, max_examples=60)
@given(conversation=conversations())
def test_tokens_are_those_of_the_whole_rendering(conversation: Conversation) -> None:
    tokenizer = byte_tokenizer()
    labeller = ConversationLabeller(tokenizer, CHATML)
    messages = [{"role": t.role, "content": t.content} for t in conversation.turns]
    text = tokenizer.apply_chat_template(messages, chat_template=CHATML, tokenize=False)
    (labelled,) = labeller.label(conversation)
    row = labelled.row
    assert len(tokenizer.encode(text, add_special_tokens=False)) - len(row.token_ids) == 1
    text = text.removesuffix("\n")  # a row ends with its last answer
    assert list(row.token_ids) == tokenizer.encode(text, add_special_tokens=False)
    prompt = labeller.prompt_ids(conversation.prompt)
    assert row.token_ids[: len(prompt)] == prompt


def test_prompt_of_the_first_answer_carries_no_loss(labeller: ConversationLabeller) -> None:
    conversation = Conversation((Turn("user", "hi"), Turn("assistant", "ho")))
    row = labeller.label(conversation)[0].row
    start = len(labeller.prompt_ids(conversation.prompt))
    assert not any(row.carries_loss[:start])
    assert row.num_loss_tokens == 3  # h, o, <|im_end|>
    assert marked_text(row, labeller).endswith("assistant\n⟦ho<|im_end|>⟧")


def test_answer_that_is_left_out_later_has_a_row_of_its_own() -> None:
    labeller = ConversationLabeller(byte_tokenizer(), FORGETFUL)
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    first, second = labeller.label(Conversation(tuple(turns)))
    assert first.conversation.turns == tuple(turns[:2])
    assert marked_text(first.row, labeller).endswith("assistant\n⟦b<|im_end|>⟧")
    assert marked_text(second.row, labeller).endswith(
        "c<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>⟧"
    )


def test_template_without_end_token_is_refused() -> None:
    labeller = ConversationLabeller(byte_tokenizer(), ENDLESS)
    with pytest.raises(TemplateError, match="ends no answer with a special token"):
        labeller.label(Conversation((Turn("user", "a"), Turn("assistant", "b"))))


def test_base_without_template_is_refused(tokenizer: Any) -> None:
    labeller = ConversationLabeller(tokenizer, "")
    with pytest.raises(TemplateError, match="no chat template"):
        labeller.label(Conversation((Turn("user", "a"), Turn("assistant", "b"))))


def test_template_that_raises_names_the_roles(tokenizer: Any) -> None:
    labeller = ConversationLabeller(tokenizer, "{{ raise_exception('no system here') }}")
    with pytest.raises(TemplateError, match="roles system, user: no system here"):
        labeller.prompt_ids([Turn("system", "a"), Turn("user", "b")])


def test_truncation_keeps_ids_and_mask_together(labeller: ConversationLabeller) -> None:
    row = labeller.label(Conversation((Turn("user", "hi"), Turn("assistant", "ho"))))[0].row
    short = row.truncated(len(row) - 2)
    assert len(short) == len(row) - 2
    assert short.num_loss_tokens == 1
