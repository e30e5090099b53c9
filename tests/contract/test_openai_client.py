"""The unchanged `openai` package against a real server."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import openai
import pytest

from server.core.errors import EngineDeadError, OverloadedError
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_server import serve

HELLO = [{"role": "user", "content": "Hello"}]
Connect = Callable[..., openai.OpenAI]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Starts a server over the given fakes and gives a client for it."""
    with ExitStack() as stack:

        def connect(serving: FakeServing | None = None) -> openai.OpenAI:
            address = stack.enter_context(serve((serving or FakeServing()).app()))
            return stack.enter_context(
                openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
            )

        yield connect


def test_lists_and_retrieves_models(connect: Connect) -> None:
    client = connect()
    cards = {card.id: card for card in client.models.list()}
    assert list(cards) == [BASE_ID, "polite", "sql"]
    assert cards[BASE_ID].model_extra == {
        "root": "embedded:tiny",
        "parent": None,
        "max_model_len": 256,
    }
    assert cards["sql"].created == 1_700_000_000
    assert cards["sql"].model_extra["parent"] == BASE_ID
    assert cards["sql"].model_extra["root"] == "sql/3"
    assert client.models.retrieve("polite").id == "polite"
    assert client.models.retrieve(BASE_ID).id == BASE_ID
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("model", "expression", "digest"),
    [
        (BASE_ID, BASE_ID, None),
        ("base", BASE_ID, None),
        ("sql", "sql@3", "sha256:sql3"),
        ("sql@2", "sql@2", "sha256:sql2"),
    ],
)
def test_chat_says_what_served_it(
    connect: Connect, model: str, expression: str, digest: str | None
) -> None:
    raw = connect().chat.completions.with_raw_response.create(model=model, messages=HELLO)
    answer = raw.parse()
    assert answer.model == expression
    assert raw.headers.get("x-adapter-digest") == digest
    assert raw.headers["x-request-id"] == answer.id
    served = "base" if expression == BASE_ID else expression
    assert answer.choices[0].message.content == f"{served} answers #0"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("user: Hello\nassistant: ")
    assert answer.usage.completion_tokens == len(f"{served} answers #0") + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stack_is_the_same_in_the_name_and_spelled_out(connect: Connect) -> None:
    client = connect()
    named = client.chat.completions.with_raw_response.create(
        model="sql:0.7+polite:0.3", messages=HELLO
    )
    spelled = client.chat.completions.with_raw_response.create(
        model=BASE_ID,
        messages=HELLO,
        extra_body={"adapters": [{"name": "sql", "scale": 0.7}, {"name": "polite", "scale": 0.3}]},
    )
    assert named.parse().model == spelled.parse().model == "sql@3:0.7+polite@1:0.3"
    assert named.headers["x-adapter-digest"] == spelled.headers["x-adapter-digest"]


def test_streams_with_usage(connect: Connect) -> None:
    client = connect(FakeServing(FakeEngine(lambda request, choice: "naïve 你好 🙂")))
    stream = client.chat.completions.create(
        model="sql", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.model for chunk in chunks} == {"sql@3"}
    assert len({chunk.id for chunk in chunks}) == 1
    text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(text) == "naïve 你好 🙂"
    assert "�" not in "".join(text)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("naïve 你好 🙂".encode()) + 1


def test_several_choices_interleave(connect: Connect) -> None:
    client = connect()
    texts, reasons, order = {0: "", 1: ""}, {}, []
    for chunk in client.chat.completions.create(model="sql", messages=HELLO, n=2, stream=True):
        choice = chunk.choices[0]
        order.append(choice.index)
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == {0: "sql@3 answers #0", 1: "sql@3 answers #1"}
    assert reasons == {0: "stop", 1: "stop"}
    assert order[2:6] == [0, 1, 0, 1]
    whole = client.chat.completions.create(model="sql", messages=HELLO, n=2)
    assert [choice.message.content for choice in whole.choices] == [texts[0], texts[1]]


def test_sampling_reaches_the_engine(connect: Connect) -> None:
    serving = FakeServing()
    answer = connect(serving).chat.completions.create(
        model="sql", messages=HELLO, temperature=0.5, top_p=0.9, max_completion_tokens=100,
        stop=["swers", "never"], seed=7, user="me", extra_body={"top_k": 40, "ignore_eos": True},
    )  # fmt: skip
    assert answer.choices[0].message.content == "sql@3 an"
    assert answer.choices[0].finish_reason == "stop"
    sampling = serving.engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
    assert (sampling.max_tokens, sampling.seed, sampling.ignore_eos) == (100, 7, True)
    assert sampling.stop == ("swers", "never")


def test_max_tokens_ends_with_length(connect: Connect) -> None:
    client = connect()
    answer = client.chat.completions.create(model="sql", messages=HELLO, max_tokens=3)
    assert answer.choices[0].message.content == "sql"
    assert answer.choices[0].finish_reason == "length"


def test_completions(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    answer = client.completions.create(model="sql", prompt="Once", max_tokens=40)
    assert (answer.object, answer.model) == ("text_completion", "sql@3")
    assert answer.choices[0].text == "sql@3 answers #0"
    chunks = list(client.completions.create(model="sql", prompt=[79, 110], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "sql@3 answers #0"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert serving.engine.requests[1].prompt_token_ids == (79, 110)
    assert serving.engine.requests[1].sampling.max_tokens == 16


def test_completions_of_several_prompts(connect: Connect) -> None:
    serving = FakeServing(FakeEngine(lambda request, i: f"{len(request.prompt_token_ids)}/{i}"))
    client = connect(serving)
    answer = client.completions.create(model="base", prompt=["one", "three"], n=2)
    assert [choice.text for choice in answer.choices] == ["3/0", "3/1", "5/0", "5/1"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 8
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(model="base", prompt=["one", "three"], n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == ["3/0", "3/1", "5/0", "5/1"]
    assert serving.engine.num_running == 0


@pytest.mark.parametrize("model", ["nobody", "sql@9", "sql+nobody", "meta-llama/Llama-3", "gpt 4"])
def test_an_unknown_adapter_is_not_found(connect: Connect, model: str) -> None:
    serving = FakeServing()
    with pytest.raises(openai.NotFoundError) as caught:
        connect(serving).chat.completions.create(model=model, messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert serving.engine.requests == []


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": "yes"}, "store"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"reasoning_effort": "hard"}, "reasoning_effort"),
        ({"service_tier": "slow"}, "service_tier"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"verbosity": "chatty"}, "verbosity"),
        ({"extra_body": {"prompt_cache_retention": "1y"}}, "prompt_cache_retention"),
        ({"extra_body": {"lora_path": "other"}}, "lora_path"),
        ({"extra_body": {"min_p": 1.1}}, "min_p"),
        ({"extra_body": {"min_tokens": 9}, "max_tokens": 5}, "min_tokens"),
        ({"extra_body": {"allowed_token_ids": [300]}}, "allowed_token_ids"),
        ({"extra_body": {"chat_template": "{{ x }}"}}, "chat_template"),
        ({"extra_body": {"use_beam_search": True}}, "use_beam_search"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["", "", "", "", ""]}, "stop[0]"),
        ({"n": 0}, "n"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(
    connect: Connect, arguments: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        connect().chat.completions.create(model="sql", messages=HELLO, **arguments)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert param in str(caught.value)


def test_a_prompt_that_is_too_long(connect: Connect) -> None:
    with pytest.raises(openai.BadRequestError, match=r"322 tokens.* 256 tokens") as caught:
        connect().chat.completions.create(
            model="sql", messages=[{"role": "user", "content": "x" * 304}]
        )
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_a_full_queue_is_a_rate_limit(connect: Connect) -> None:
    engine = FakeEngine(error=OverloadedError("the queue holds 1024 sequences", 2.2))
    client = connect(FakeServing(engine))
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="sql", messages=HELLO, stream=stream)
        assert caught.value.response.headers["retry-after"] == "3"
        assert caught.value.code == "rate_limit_exceeded"


def test_a_dead_engine_is_an_internal_error_with_retry_after(connect: Connect) -> None:
    client = connect(FakeServing(FakeEngine(error=EngineDeadError("the engine isn't running"))))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="sql", messages=HELLO)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_an_error_in_the_middle_of_a_stream(connect: Connect) -> None:
    client = connect(FakeServing(FakeEngine(fail_after=4)))
    stream = client.chat.completions.create(model="sql", messages=HELLO, stream=True)
    texts: list[str] = []
    with pytest.raises(openai.APIError, match="the step failed"):
        texts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(texts) == "sql@"


def test_closing_a_stream_aborts_the_request(connect: Connect) -> None:
    serving = FakeServing(FakeEngine(hang_after=3))
    stream = connect(serving).chat.completions.create(model="sql", messages=HELLO, stream=True)
    next(iter(stream))
    stream.close()
    assert serving.engine.has_aborted.wait(timeout=10)
    assert serving.engine.num_running == 0


def test_giving_up_on_a_whole_answer_aborts_the_request(connect: Connect) -> None:
    serving = FakeServing(FakeEngine(hang_after=3))
    client = connect(serving).with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="sql", messages=HELLO)
    assert serving.engine.has_aborted.wait(timeout=10)
    assert serving.engine.num_running == 0


def test_thirty_two_streams_at_once() -> None:
    serving = FakeServing()

    async def ask(client: openai.AsyncOpenAI, i: int) -> str:
        model = ["base", "sql", "polite", "sql:0.5+polite:0.5"][i % 4]
        stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all(address: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client, i) for i in range(32)))

    with serve(serving.app()) as address:
        answers = asyncio.run(ask_all(address))
    served = ["base", "sql@3", "polite@1", "sql@3:0.5+polite@1:0.5"]
    assert answers == [f"{served[i % 4]} answers #0" for i in range(32)]
    assert (serving.engine.num_running, len(serving.engine.completed)) == (0, 32)
    assert serving.engine.aborted == []
