"""`langchain-openai` as a second witness: it expects more of an answer than `openai` does."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from server.core.grammar import GrammarKind
from tests.fakes.api_app import INFO, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_grammars import FakeGrammar
from tests.fakes.api_server import serve

WIDE = replace(INFO, max_model_len=4096)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
Connect = Callable[[FakeServing], ChatOpenAI]


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}"


class Ticket(BaseModel):
    """What the customer wants."""

    name: str
    urgency: int


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(serving: FakeServing) -> ChatOpenAI:
            address = stack.enter_context(serve(serving.app()))
            return ChatOpenAI(
                model="sql", base_url=f"{address}/v1", api_key=SecretStr("none"), max_retries=0,
                timeout=20, temperature=0.5,
            )  # fmt: skip

        yield connect


def saying(*texts: str) -> FakeServing:
    """Answers with the texts in turn, the last one for ever."""
    left = list(texts)
    return FakeServing(
        FakeEngine(lambda request, choice: left.pop(0) if len(left) > 1 else left[0]), info=WIDE
    )


def test_invoke(connect: Connect) -> None:
    serving = saying("Grüezi")
    answer = connect(serving).invoke([("system", "Be brief."), ("user", "Hello")])
    assert answer.content == "Grüezi"
    assert answer.response_metadata["model_name"].startswith("sql@")
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata is not None
    prompt = bytes(serving.engine.requests[0].prompt_token_ids)
    assert answer.usage_metadata["input_tokens"] == len(prompt)
    assert answer.usage_metadata["output_tokens"] == len("Grüezi".encode()) + 1
    assert prompt.startswith(b"system: Be brief.\nuser: Hello")
    assert serving.engine.requests[0].sampling.temperature == 0.5


def test_stream(connect: Connect) -> None:
    model = connect(saying("Grüezi"))
    chunks = list(model.stream("Hello", stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == "Grüezi"
    assert len(chunks) > 3
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [counts["output_tokens"] for counts in usage] == [len("Grüezi".encode()) + 1]


async def test_batch_in_asyncio(connect: Connect) -> None:
    answers = await connect(saying("yes")).abatch(["a", "b", "c"])
    assert [answer.content for answer in answers] == ["yes"] * 3


def test_bind_tools_and_the_result_fed_back(connect: Connect) -> None:
    serving = saying(CALL, "It is sunny.")
    model = connect(serving)
    question = HumanMessage("The weather in Zürich?")
    asked = model.bind_tools([weather], tool_choice="any").invoke([question])
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Zürich"})
    grammar = serving.engine.requests[0].sampling.grammar
    assert isinstance(grammar, FakeGrammar)
    assert r"{\"name\": \"weather\"" in grammar.spec.text
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    told = model.invoke([question, asked, result])
    assert told.content == "It is sunny."
    prompt = bytes(serving.engine.requests[1].prompt_token_ids).decode()
    assert "<tool_response>\nSunny in Zürich\n</tool_response>" in prompt
    assert '"arguments": {"city": "Zürich"}' in prompt


def test_tool_calls_streamed(connect: Connect) -> None:
    model = connect(saying(f"Let me see.\n{CALL}\n{CALL}")).bind_tools([weather])
    whole: AIMessageChunk | None = None
    for chunk in model.stream("The weather?"):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.content == "Let me see."
    assert [call["args"] for call in whole.tool_calls] == [{"city": "Zürich"}] * 2


def test_structured_output_by_schema(connect: Connect) -> None:
    serving = saying('{"name": "Weber", "urgency": 2}')
    model = connect(serving).with_structured_output(Ticket, method="json_schema")
    assert model.invoke("Ms Weber waits.") == Ticket(name="Weber", urgency=2)
    grammar = serving.engine.requests[0].sampling.grammar
    assert isinstance(grammar, FakeGrammar)
    assert grammar.spec.kind is GrammarKind.JSON_SCHEMA
    assert '"urgency"' in grammar.spec.text


def test_structured_output_by_tool(connect: Connect) -> None:
    call = '<tool_call>\n{"name": "Ticket", "arguments": {"name": "W", "urgency": 3}}\n</tool_call>'
    model = connect(saying(call)).with_structured_output(Ticket, method="function_calling")
    assert model.invoke("Ms W waits.") == Ticket(name="W", urgency=3)
