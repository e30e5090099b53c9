"""Chunks are valid JSON whatever the text, and the pre-serialised parts agree with a plain dump."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.answers.chat import ChatFormat
from server.api.answers.completion import CompletionFormat
from server.api.answers.format import AnswerHead, StreamReport, Usage, WholeChoice, event
from server.core.request import FinishReason, GenerationDelta

HEAD = AnswerHead("chatcmpl-1", 5, 'odd "model" \\ name')


def payload(chunk: bytes) -> dict[str, object]:
    text = chunk.decode()
    assert text.startswith("data: ")
    assert text.endswith("\n\n")
    assert "\n" not in text[:-2]
    assert "\r" not in text
    loaded: dict[str, object] = json.loads(text.removeprefix("data: "))
    return loaded


@given(text=st.text(), choice=st.integers(0, 127), includes_usage=st.booleans())
def test_any_text_survives(text: str, choice: int, includes_usage: bool) -> None:
    usage = {"usage": None} if includes_usage else {}
    common = {"id": "chatcmpl-1", "created": 5, "model": HEAD.model}
    report, delta = StreamReport(includes_usage), GenerationDelta(choice, text, 1)
    chat = ChatFormat(HEAD, report).delta(delta)
    assert (chat == b"") == (text == "")
    if not text:
        return
    assert payload(chat) == {
        **common,
        "object": "chat.completion.chunk",
        "choices": [{"index": choice, "delta": {"content": text}, "finish_reason": None}],
        **usage,
    }
    completion = CompletionFormat(HEAD, report).delta(delta)
    assert payload(completion) == {
        **common,
        "object": "text_completion",
        "choices": [{"index": choice, "text": text, "finish_reason": None}],
        **usage,
    }


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
def test_finish_and_usage_chunks(reason: FinishReason) -> None:
    answer = ChatFormat(HEAD, StreamReport(includes_usage=True))
    assert payload(answer.delta(GenerationDelta(3, "", 1, reason)))["choices"] == [
        {"index": 3, "delta": {}, "finish_reason": reason.value}
    ]
    last = payload(answer.closing(Usage(7, 5)))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_a_chat_opens_with_the_role_of_each_choice() -> None:
    parts = ChatFormat(HEAD).opening(2).split(b"\n\n")[:-1]
    choices = [payload(part + b"\n\n")["choices"] for part in parts]
    assert choices == [
        [{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        for i in range(2)
    ]
    assert CompletionFormat(HEAD).opening(2) == b""


def test_whole_answers() -> None:
    choices = [WholeChoice("a", FinishReason.STOP), WholeChoice("b", FinishReason.LENGTH)]
    chat = ChatFormat(HEAD).whole(choices, Usage(1, 2))
    assert chat["object"] == "chat.completion"
    assert chat["choices"][1] == {
        "index": 1,
        "message": {"role": "assistant", "content": "b", "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }
    completion = CompletionFormat(HEAD).whole(choices, Usage(1, 2))
    assert [choice["text"] for choice in completion["choices"]] == ["a", "b"]
    assert completion["usage"]["total_tokens"] == 3


def test_usage_along_the_way_counts_up() -> None:
    answer = CompletionFormat(HEAD, StreamReport(counts_along=True, num_prompt_tokens=3))
    totals = [
        payload(answer.delta(GenerationDelta(0, "x", 1)))["usage"]["total_tokens"]  # type: ignore[index]
        for _ in range(3)
    ]
    assert totals == [4, 5, 6]
    assert answer.closing(Usage(3, 3)) == b""


def test_chinese_stays_readable() -> None:
    assert event({"error": "你好"}) == 'data: {"error":"你好"}\n\n'.encode()
