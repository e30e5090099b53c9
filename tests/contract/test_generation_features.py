"""Each field of chat and completions through the `openai` package, whole and streamed."""

from typing import Any

import openai
import pytest

from server.core.grammar import GrammarKind
from tests.fakes.api_app import FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_grammars import FakeGrammar
from tests.fakes.openai_client import HELLO, Connect, connect, saying

__all__ = ["connect"]


def test_every_sampling_field_reaches_the_engine(connect: Connect) -> None:
    serving = FakeServing()
    connect(serving).chat.completions.create(
        model="sql", messages=HELLO, presence_penalty=0.5, frequency_penalty=-1, max_tokens=50,
        logit_bias={"65": 3, "66": -100},
        extra_body={
            "repetition_penalty": 1.2, "min_p": 0.1, "min_tokens": 4, "bad_words": ["no"],
            "allowed_token_ids": [65, 66, 67], "stop_token_ids": [67],
            "include_stop_str_in_output": True, "skip_special_tokens": False,
        },
    )  # fmt: skip
    sampling = serving.engine.requests[0].sampling
    assert (sampling.min_p, sampling.min_tokens) == (0.1, 4)
    assert (sampling.stop_token_ids, sampling.includes_stop) == ({67}, True)
    assert not sampling.skips_special_tokens
    rules = sampling.rules
    assert rules is not None
    assert (rules.presence_penalty, rules.frequency_penalty) == (0.5, -1)
    assert rules.repetition_penalty == 1.2
    assert dict(rules.logit_bias) == {65: 3, 66: -100}
    assert rules.allowed_token_ids == (65, 66, 67)
    assert rules.banned_sequences == (tuple(b"no"), tuple(b" no"))
    assert rules.withheld_token_ids == (67, 256)


def test_a_plain_request_has_no_rules(connect: Connect) -> None:
    serving = FakeServing()
    connect(serving).chat.completions.create(model="sql", messages=HELLO, metadata={"a": "b"})
    sampling = serving.engine.requests[0].sampling
    assert (sampling.rules, sampling.grammar, sampling.logprobs) == (None, None, None)


def test_chat_logprobs_whole_and_streamed(connect: Connect) -> None:
    client = connect(saying("Zürich"))
    whole = client.chat.completions.create(
        model="sql", messages=HELLO, logprobs=True, top_logprobs=2
    )
    told = whole.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert b"".join(bytes(token.bytes or ()) for token in told.content).decode() == "Zürich"
    assert [token.token for token in told.content][:3] == ["Z", "bytes:\\xc3", "bytes:\\xbc"]
    assert all(len(token.top_logprobs) == 2 for token in told.content)
    assert told.content[0].logprob == pytest.approx(-0.9)
    streamed, text = [], ""
    for chunk in client.chat.completions.create(
        model="sql", messages=HELLO, logprobs=True, top_logprobs=2, stream=True
    ):
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content or []
        spelled = b"".join(bytes(token.bytes or ()) for token in streamed)
        assert spelled.decode() == text
    assert streamed == told.content


def test_completion_logprobs_with_echo(connect: Connect) -> None:
    client = connect(saying("ab"))
    whole = client.completions.create(
        model="sql", prompt="Hé", logprobs=1, echo=True, max_tokens=8
    ).choices[0]
    assert whole.text == "Héab"
    told = whole.logprobs
    assert told is not None
    assert told.tokens == ["H", "bytes:\\xc3", "bytes:\\xa9", "a", "b"]
    assert told.text_offset == [0, 1, 1, 2, 3]
    assert told.token_logprobs == [None, -1.95, -1.69, -0.97, -0.98]
    assert told.top_logprobs is not None
    assert told.top_logprobs[0] is None
    assert told.top_logprobs[3] == {"a": -0.97}
    chunks = list(
        client.completions.create(
            model="sql", prompt="Hé", logprobs=1, echo=True, max_tokens=8, stream=True
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Héab"
    logprobs = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [token for part in logprobs for token in part.tokens or ()] == told.tokens
    assert [offset for part in logprobs for offset in part.text_offset or ()] == told.text_offset


def test_scoring_a_prompt_alone(connect: Connect) -> None:
    client = connect(saying("never seen"))
    for stream in (False, True):
        answer: Any = client.completions.create(
            model="sql", prompt=["ab", [99, 100, 101]], logprobs=0, echo=True, max_tokens=0,
            stream=stream,
        )  # fmt: skip
        parts = list(answer) if stream else [answer]
        texts = {0: "", 1: ""}
        for part in parts:
            for choice in part.choices:
                texts[choice.index] += choice.text
        assert texts == {0: "ab", 1: "cde"}
    whole = client.completions.create(model="sql", prompt="ab", logprobs=0, echo=True, max_tokens=0)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 0
    assert whole.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="without echo"):
        client.completions.create(model="sql", prompt="ab", max_tokens=0)


def test_prompt_logprobs_in_vllms_form(connect: Connect) -> None:
    client = connect(saying("x"))
    chat = client.chat.completions.create(
        model="sql", messages=HELLO, extra_body={"prompt_logprobs": 1}
    )
    told: Any = chat.model_extra["prompt_logprobs"]  # type: ignore[index]
    assert told[0] is None
    assert len(told) == chat.usage.prompt_tokens  # type: ignore[union-attr]
    assert told[1] == {"115": {"logprob": -1.15, "rank": 1, "decoded_token": "s"}}
    completion = client.completions.create(
        model="sql", prompt="ab", extra_body={"prompt_logprobs": 0}
    )
    assert completion.choices[0].model_extra["prompt_logprobs"][1]["98"]["rank"] == 1  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="leave stream out"):
        client.completions.create(
            model="sql", prompt="ab", stream=True, extra_body={"prompt_logprobs": 0}
        )


def test_best_of_returns_the_most_probable(connect: Connect) -> None:
    texts = ["zzz", "aaa", "mmm"]  # the fake engine finds low letters probable
    serving = FakeServing(FakeEngine(lambda request, choice: texts[choice]))
    client = connect(serving)
    answer = client.completions.create(model="sql", prompt="x", n=2, best_of=3)
    assert [choice.text for choice in answer.choices] == ["aaa", "mmm"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * 4
    assert answer.choices[0].logprobs is None
    with pytest.raises(openai.BadRequestError, match="leave stream out"):
        client.completions.create(model="sql", prompt="x", best_of=3, stream=True)
    with pytest.raises(openai.BadRequestError, match="at least n"):
        client.completions.create(model="sql", prompt="x", n=3, best_of=2)


def test_stop_reasons_and_stop_tokens(connect: Connect) -> None:
    client = connect(saying("one, two, three"))
    choice = client.chat.completions.create(model="sql", messages=HELLO, stop=", t").choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one", "stop")
    assert choice.model_extra["stop_reason"] == ", t"  # type: ignore[index]
    choice = client.chat.completions.create(
        model="sql", messages=HELLO, stop=", t", extra_body={"include_stop_str_in_output": True}
    ).choices[0]
    assert choice.message.content == "one, t"
    choice = client.chat.completions.create(
        model="sql", messages=HELLO, extra_body={"stop_token_ids": [ord(",")]}
    ).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one", "stop")
    assert choice.model_extra["stop_reason"] == ord(",")  # type: ignore[index]


def test_usage_along_the_way(connect: Connect) -> None:
    stream = connect(saying("abc")).chat.completions.create(
        model="sql",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    assert len(counts) >= 5


def test_truncated_and_continued_prompts(connect: Connect) -> None:
    serving = saying("x")
    client = connect(serving)
    client.completions.create(
        model="sql", prompt="abcdef", extra_body={"truncate_prompt_tokens": 2}
    )
    assert serving.engine.requests[-1].prompt_token_ids == tuple(b"ef")
    client.completions.create(
        model="sql", prompt="x" * 3000, max_tokens=6, extra_body={"truncate_prompt_tokens": -1}
    )
    assert len(serving.engine.requests[-1].prompt_token_ids) == 2042
    client.chat.completions.create(
        model="sql",
        messages=[*HELLO, {"role": "assistant", "content": "I am"}],
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert bytes(serving.engine.requests[-1].prompt_token_ids) == b"user: Hello\nassistant: I am"
    client.chat.completions.create(
        model="sql", messages=HELLO, extra_body={"add_generation_prompt": False}
    )
    assert bytes(serving.engine.requests[-1].prompt_token_ids) == b"user: Hello\n"


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        (
            {"response_format": {"type": "json_object"}},
            GrammarKind.JSON_SCHEMA,
            '{"type":"object"}',
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "null"}, "strict": True},
                }
            },
            GrammarKind.JSON_SCHEMA,
            '{"type":"null"}',
        ),
        ({"extra_body": {"guided_regex": "a+"}}, GrammarKind.REGEX, "a+"),
        ({"extra_body": {"guided_choice": ["a", "ü"]}}, GrammarKind.LARK, 'start: "a" | "ü"'),
        ({"extra_body": {"guided_grammar": "root ::= x"}}, GrammarKind.GBNF, "root ::= x"),
        ({"extra_body": {"guided_json": '{"a":1}'}}, GrammarKind.JSON_SCHEMA, '{"a":1}'),
        ({"extra_body": {"structured_outputs": {"regex": "b"}}}, GrammarKind.REGEX, "b"),
        (
            {"extra_body": {"structured_outputs": {"json": {"a": 1}}}},
            GrammarKind.JSON_SCHEMA,
            '{"a":1}',
        ),
    ],
)
def test_shapes_reach_the_engine(
    connect: Connect, fields: dict[str, Any], kind: GrammarKind, text: str
) -> None:
    serving = FakeServing()
    connect(serving).chat.completions.create(model="sql", messages=HELLO, **fields)
    grammar = serving.engine.requests[0].sampling.grammar
    assert isinstance(grammar, FakeGrammar)
    assert (grammar.spec.kind, grammar.spec.text) == (kind, text)
