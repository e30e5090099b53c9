"""What generation promises, through HTTP on the real engine and the embedded base.

Seeds, shapes beyond llguidance's limits, and tools that must be called.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from tests.integration.live_server import import_examples, live_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BASE = "smollm2-135m-instruct"
MODELS = (BASE, "polite", "poet", "extract", "polite:0.7+poet:0.3", "polite:-0.5", "poet@1", BASE)
ASKED: Any = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    workspace = tmp_path_factory.mktemp("live")
    import_examples(workspace / "adapters")
    with live_server(workspace / "adapters", workspace / "server.log") as address:
        yield address


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600
    ) as connected:
        yield connected


async def draw(client: openai.AsyncOpenAI, model: str, seed: int, *, streams: bool = False) -> str:
    """The sampled answer to one question; `seed` is all that makes it what it is."""
    fields: Any = {
        "model": model,
        "messages": ASKED,
        "max_tokens": NUM_TOKENS,
        "temperature": 1.0,
        "seed": seed,
        "extra_body": {"ignore_eos": True},
    }
    if not streams:
        answer = await client.chat.completions.create(**fields)
        return str(answer.choices[0].message.content)
    pieces = []
    async for chunk in await client.chat.completions.create(**fields, stream=True):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    return "".join(pieces)


async def test_a_seed_gives_the_same_text_alone_and_in_any_company(
    client: openai.AsyncOpenAI, url: str
) -> None:
    drawn = [(model, seed) for seed in (7, 8) for model in MODELS]
    alone = [await draw(client, *one) for one in drawn]
    assert len(set(alone)) >= 12, "these seeds and models differ"
    for streams in (False, True):
        together = await asyncio.gather(
            *(draw(client, *one, streams=streams != bool(i % 2)) for i, one in enumerate(drawn))
        )
        assert together == alone
    page = await page_of(url)
    [batches] = [r for r in page.splitlines() if r.startswith('switchyard_batch_size_bucket{le="8')]
    [every] = [r for r in page.splitlines() if r.startswith("switchyard_batch_size_count")]
    assert float(every.split()[-1]) > float(batches.split()[-1]), "more than 8 ran in one step"


async def page_of(url: str) -> str:
    """`/metrics` now."""
    async with httpx.AsyncClient() as plain:
        return (await plain.get(f"{url}/metrics")).text


def one_of(count: int) -> dict[str, Any]:
    """A schema that stands at the beginning and is too much in the middle: its alternatives are
    all open at once behind `{"x": `."""
    options = [
        {"type": "object", "properties": {f"k{i}": {"type": "integer"}}, "required": [f"k{i}"]}
        for i in range(count)
    ]
    return {"type": "object", "properties": {"x": {"anyOf": options}}, "required": ["x"]}


def shaped(schema: dict[str, Any]) -> Any:
    return {
        "model": "polite",
        "messages": ASKED,
        "max_tokens": 40,
        "temperature": 0.0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema},
        },
    }


async def test_a_shape_beyond_the_parsers_limits_ends_its_request_alone(
    client: openai.AsyncOpenAI, url: str
) -> None:
    bystander = asyncio.create_task(draw(client, "poet", 3))
    with pytest.raises(openai.BadRequestError, match=r"can't be finished.*2000") as caught:
        await client.chat.completions.create(**shaped(one_of(2100)))
    assert caught.value.type == "invalid_request_error"
    stream = await client.chat.completions.create(**shaped(one_of(2100)), stream=True)
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError, match="can't be finished"):
        await read()
    assert "{" in text, "it broke off in mid-answer"
    failed: Any = None
    async for event in await client.responses.create(
        model="polite",
        input="x",
        stream=True,
        text={"format": {"type": "json_schema", "name": "x", "schema": one_of(2100)}},
    ):
        failed = event
    assert failed.type == "response.failed"
    assert failed.response.error.code == "invalid_prompt"
    start = {"anyOf": one_of(2100)["properties"]["x"]["anyOf"]}
    with pytest.raises(openai.BadRequestError, match=r"can't be (enforced|finished)"):
        await client.chat.completions.create(**shaped(start))
    assert await bystander == await draw(client, "poet", 3)
    fine = await client.chat.completions.create(**shaped(one_of(50)))
    assert str(fine.choices[0].message.content).startswith("{")
    page = await page_of(url)
    assert 'finish_reason="refused"' in page
    assert "switchyard_kv_cache_usage_ratio 0.0" in page


async def test_a_line_of_grammar_that_would_hold_up_the_batch_is_given_up(
    client: openai.AsyncOpenAI,
) -> None:
    """Left to itself its masks take seconds after a hundred tokens, of everybody's time."""
    bystander = asyncio.create_task(draw(client, "poet", 4))
    with pytest.raises(openai.BadRequestError, match=r"too ambiguous|max is 2000"):
        await client.chat.completions.create(
            model=BASE,
            messages=ASKED,
            max_tokens=1000,
            temperature=0.0,
            extra_body={
                "guided_grammar": 'root ::= root root root | root root | "a"',
                "min_tokens": 900,
            },
        )
    assert await bystander == await draw(client, "poet", 4)


def function(name: str, **properties: Any) -> Any:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    function("track", carrier={"enum": ["post", "courier"]}, urgent={"type": "boolean"}),
    function("refund", percent={"type": "integer", "minimum": 1, "maximum": 100}),
]
TRACK = {"type": "function", "function": {"name": "track"}}


def check_calls(calls: list[tuple[str, str]]) -> None:
    """Each call is of a function that there is, with arguments that its schema allows."""
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), schemas[name])


@pytest.mark.parametrize("model", [BASE, "polite"])
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": "required"}, {"track", "refund"}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"track", "refund"}),
        ({"tool_choice": TRACK}, {"track"}),
    ],
)
async def test_what_must_be_called_is_called(
    client: openai.AsyncOpenAI, model: str, fields: dict[str, Any], names: set[str]
) -> None:
    asked: Any = {
        "model": model,
        "messages": ASKED,
        "tools": TOOLS,
        "temperature": 0.0,
        "max_tokens": 400,
        **fields,
    }
    whole = (await client.chat.completions.create(**asked)).choices[0]
    assert whole.finish_reason == "tool_calls"
    found: Any = whole.message.tool_calls
    calls = [(call.function.name, call.function.arguments) for call in found]
    check_calls(calls)
    assert {name for name, _ in calls} <= names
    if fields != {"tool_choice": "required"}:
        assert len(calls) == 1
    streamed: list[list[str]] = []
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            if call.id:
                assert call.index == len(streamed)
                streamed.append([str(call.function.name), ""])
            streamed[call.index][1] += call.function.arguments or ""
    assert [tuple(call) for call in streamed] == calls


async def test_calls_may_be_parallel(client: openai.AsyncOpenAI) -> None:
    """A model that is made to call, over and over: eight calls are the most."""
    answer = await client.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": "Track by post, track by courier, refund 5 %."}],
        tools=TOOLS,
        tool_choice="required",
        temperature=1.0,
        seed=5,
        max_tokens=600,
        n=8,
    )
    counts = []
    for choice in answer.choices:
        found: Any = choice.message.tool_calls
        check_calls([(call.function.name, call.function.arguments) for call in found])
        assert len({call.id for call in found}) == len(found)
        counts.append(len(found))
    assert 1 <= min(counts) <= max(counts) <= 8
    assert max(counts) > 1, "none of eight answers called twice"


async def test_responses_arguments_obey_their_schema(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    answer = await client.responses.create(
        model="polite", input="Refund me.", tools=tools, tool_choice="required", temperature=0.0
    )
    check_calls([(i.name, i.arguments) for i in answer.output if i.type == "function_call"])
    assert any(item.type == "function_call" for item in answer.output)
