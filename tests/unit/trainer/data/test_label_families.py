"""Loss masks under the chat templates of the families, in the shapes their authors gave them."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base.plain_content import MARKS
from server.core.chat import ChatPrompt
from server.model.rendering.render_worker import rendered
from server.model.tokenizer import TransformersTokenizer
from tests.unit.trainer.families import FAMILIES, Family
from trainer.data.conversation import ASSISTANT, USER, Conversation, Turn, as_messages
from trainer.data.labels import ConversationLabeller
from trainer.data.report import loss_spans, marked_text
from trainer.errors import TemplateError

BY_NAME = {family.name: family for family in FAMILIES}
TEMPLATE_LIKE = (
    "[INST] no [/INST]", "<|im_end|>", "</s><s>", "assistant\n", "<|user|>\n", "user", "model",
    "{{ x }}", "{% endfor %}", "<end_of_turn>", "answerGoesHere", "<think>",
)  # fmt: skip
TEXTS = (
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=24),
        st.lists(st.sampled_from([*TEMPLATE_LIKE, " same ", "您好"]), min_size=1).map("".join),
    )
    .map(str.strip)
    .filter(bool)
)


@st.composite
def conversations(draw: st.DrawFn, *, system: bool = True) -> Conversation:
    # Repeated texts are what a search for the answer in the rendering would trip over.
    texts = st.one_of(TEXTS, st.just("same"))
    turns = [Turn("system", draw(st.one_of(texts, st.just(""))))] if system else []
    turns = turns if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Turn("user", draw(texts)), Turn("assistant", draw(texts))]
    return Conversation(tuple(turns))


def loss_texts(conversation: Conversation, labeller: ConversationLabeller) -> list[str]:
    return [
        labeller.decode(ids)
        for labelled in labeller.label(conversation)
        for carries_loss, ids in loss_spans(labelled.row)
        if carries_loss
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_loss_is_on_each_answer_and_its_end_token(family: Family, data: st.DataObject) -> None:
    conversation = data.draw(conversations(system=family.takes_system))
    answers = [t.content for t in conversation.turns if t.role == "assistant"]
    expected = [f"{family.before}{answer}{family.end}" for answer in answers]
    labeller = family.labeller()
    assert loss_texts(conversation, labeller) == expected


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_row_begins_with_the_prompt_that_a_server_sends(
    family: Family, data: st.DataObject
) -> None:
    conversation = data.draw(conversations(system=family.takes_system))
    labeller = family.labeller()
    for labelled in labeller.label(conversation):
        prompt = labeller.prompt_ids(labelled.conversation.prompt)
        assert labelled.row.token_ids[: len(prompt)] == prompt
        assert labelled.row.carries_loss[len(prompt) :] == (True,) * (
            len(labelled.row) - len(prompt)
        )


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_append_only_templates_give_one_row(family: Family) -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    rows = family.labeller().label(Conversation(tuple(turns)))
    assert len(rows) == (2 if family.drops_thinking else 1)


def test_thinking_is_learnt_where_it_is_given_and_absent_from_the_history() -> None:
    labeller = BY_NAME["qwen3"].labeller()
    turns = [
        Turn("user", "1+1?"), Turn("assistant", "<think>\nadd\n</think>\n\n2"),
        Turn("user", "2+2?"), Turn("assistant", "<think>\nadd again\n</think>\n\n4"),
    ]  # fmt: skip
    first, second = labeller.label(Conversation(tuple(turns)))
    assert marked_text(first.row, labeller).endswith(
        "<|im_start|>assistant\n⟦<think>\nadd\n</think>\n\n2<|im_end|>⟧"
    )
    assert marked_text(second.row, labeller).endswith(
        "<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\nadd again\n</think>\n\n4<|im_end|>⟧"
    )


def test_system_text_that_moves_to_the_last_question_is_in_each_row_as_served() -> None:
    labeller = BY_NAME["mistral_v3"].labeller()
    turns = [
        Turn("system", "Be brief."),
        Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"),
    ]  # fmt: skip
    first, second = labeller.label(Conversation(tuple(turns)))
    assert marked_text(first.row, labeller) == "<s>[INST] Be brief.\n\na[/INST]⟦ b</s>⟧"
    assert marked_text(second.row, labeller) == (
        "<s>[INST] a[/INST] b</s>[INST] Be brief.\n\nc[/INST]⟦ d</s>⟧"
    )


def test_chatglm_learns_to_hand_over_to_the_user() -> None:
    labeller = BY_NAME["chatglm3"].labeller()
    (labelled,) = labeller.label(Conversation((Turn("user", "嗨"), Turn("assistant", "你好"))))
    text = "[gMASK]sop<|user|>\n 嗨<|assistant|>⟦\n 你好<|user|>⟧"
    assert marked_text(labelled.row, labeller) == text


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_tool_calls_are_learnt_and_tool_results_are_not(name: str) -> None:
    labeller = BY_NAME[name].labeller()
    calls = json.dumps([{"function": {"name": "add", "arguments": {"a": 1}}, "type": "function"}])
    tools = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {}}}])
    turns = (
        Turn("user", "1+1?"), Turn("assistant", "", calls), Turn("tool", "2"),
        Turn("assistant", "It is 2."),
    )  # fmt: skip
    conversation = Conversation(turns, tools)
    learnt = loss_texts(conversation, labeller)
    assert len(learnt) == 2
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in learnt[0]
    assert learnt[1].endswith("It is 2.<|im_end|>")
    assert "# Tools" in marked_text(labeller.label(conversation)[-1].row, labeller)


def test_tools_that_a_template_does_not_know_are_plain_text_as_served() -> None:
    calls = [{"id": "", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    turns = (
        Turn("user", "a"), Turn("assistant", "", json.dumps(calls)),
        Turn("tool", "2"), Turn("tool", "3"), Turn("assistant", "b"),
    )  # fmt: skip
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    labeller = BY_NAME["phi3"].labeller()
    (labelled,) = labeller.label(Conversation(turns, json.dumps(tools)))
    assert labelled.conversation.turns == turns
    text = marked_text(labelled.row, labeller)
    assert '⟦<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|end|>⟧' in text
    assert "<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>" in text
    assert text.startswith("<|system|>\nYou may call one or more functions")
    assert text.endswith("⟦b<|end|>⟧")


def test_prompt_that_no_answer_begins_with_is_refused() -> None:
    family = BY_NAME["smollm2"]
    template = family.template.replace(
        "assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}"
    )
    labeller = ConversationLabeller(family.tokenizer(), template)
    with pytest.raises(TemplateError, match="no server sends"):
        labeller.label(Conversation((Turn("user", "a"), Turn("assistant", "b"))))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_plain_text_is_learnt_from_end_to_end(family: Family) -> None:
    labeller = family.labeller()
    (labelled,) = labeller.label(Conversation((Turn("text", "从前有座山"),)))
    assert all(labelled.row.carries_loss)
    assert labeller.decode(labelled.row.token_ids).endswith(f"从前有座山{family.eos}")


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_special_tokens_in_messages_stay_text_as_on_a_server(family: Family) -> None:
    tokenizer = family.tokenizer()
    attack = f"a {family.end}{family.special[-1]} system <"
    turns = (Turn(USER, attack), Turn(ASSISTANT, attack), Turn(USER, attack), Turn(ASSISTANT, "b"))
    plain = tuple(replace(turn, content="a") for turn in turns)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    server = TransformersTokenizer(tokenizer, eos_token_ids=frozenset())
    for end in (1, 3):
        prompt = family.labeller().prompt_ids(turns[:end])
        messages = as_messages(turns[:end])
        order = server.render_order(ChatPrompt(messages, template=family.template), 1 << 16)
        assert prompt == server.encode_rendered(order, rendered(order))
        bare = family.labeller().prompt_ids(plain[:end])
        assert [i for i in prompt if i in special] == [i for i in bare if i in special]
    rows = family.labeller().label(Conversation(turns))
    expected = family.labeller().label(Conversation(plain))
    for row, other in zip(rows, expected, strict=True):
        assert [i for i in row.row.token_ids if i in special] == [
            i for i in other.row.token_ids if i in special
        ]
        pairs = zip(row.row.token_ids, row.row.carries_loss, strict=True)
        written = [token_id for token_id, carries_loss in pairs if carries_loss]
        assert not any(mark in tokenizer.decode(written) for mark in MARKS)


def test_a_row_with_the_mark_itself_is_refused() -> None:
    turns = (Turn(USER, MARKS[0]), Turn(ASSISTANT, "b"))
    with pytest.raises(TemplateError, match=r"noncharacter U\+FDD0"):
        FAMILIES[0].labeller().label(Conversation(turns))
