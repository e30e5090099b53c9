"""What goes over the wire byte by byte, where the `openai` client hides it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from sse_starlette.sse import AppStatus

from server.api.settings import ApiSettings
from server.core.request import FinishReason
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_server import serve

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
Connect = Callable[[FakeServing], httpx.AsyncClient]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """A client straight into the application, without a socket."""
    clients: list[httpx.AsyncClient] = []

    def connect(serving: FakeServing) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test"))
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()


def events(body: str) -> list[str]:
    assert body.endswith("\n\n")
    return [part.removeprefix("data: ") for part in body.removesuffix("\n\n").split("\n\n")]


async def test_a_chat_stream_byte_by_byte(connect: Connect) -> None:
    client = connect(FakeServing(FakeEngine(lambda request, choice: 'a"\n')))
    answer = await client.post(
        CHAT,
        json={
            "model": "sql",
            "messages": HELLO,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-adapter-digest"] == "sha256:sql3"
    parts = events(answer.text)
    head = re.match(
        r'\{"id":"(chatcmpl-[0-9a-f]{24})","object":"chat.completion.chunk","created":\d+,'
        r'"model":"sql@3",',
        parts[0],
    )
    assert head is not None
    assert answer.headers["x-request-id"] == head[1]
    assert [part.removeprefix(head[0]) for part in parts] == [
        '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}',
        '"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}',
        '"choices":[{"index":0,"delta":{"content":"\\""},"finish_reason":null}],"usage":null}',
        '"choices":[{"index":0,"delta":{"content":"\\n"},"finish_reason":null}],"usage":null}',
        '"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}',
        '"choices":[],"usage":{"prompt_tokens":23,"completion_tokens":4,"total_tokens":27,'
        '"prompt_tokens_details":{"cached_tokens":0}}}',
        "[DONE]",
    ]


async def test_a_completion_stream_byte_by_byte(connect: Connect) -> None:
    client = connect(FakeServing(FakeEngine(lambda request, choice: "ab")))
    body = {"model": "base", "prompt": "x", "stream": True, "max_tokens": 2}
    answer = await client.post("/v1/completions", json=body)
    assert "x-adapter-digest" not in answer.headers
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert [json.loads(chunk)["choices"] for chunk in chunks] == [
        [{"index": 0, "text": "a", "finish_reason": None}],
        [{"index": 0, "text": "b", "finish_reason": None}],
        [{"index": 0, "text": "", "finish_reason": "length"}],
    ]
    assert {json.loads(chunk)["object"] for chunk in chunks} == {"text_completion"}
    assert {json.loads(chunk)["model"] for chunk in chunks} == {BASE_ID}


@pytest.mark.parametrize(
    ("engine", "message", "code"),
    [
        (FakeEngine(fail_after=2), "the generation failed: the step failed", "generation_failed"),
        (
            FakeEngine(fail_after=2, fail_reason=FinishReason.ABORT),
            "the engine stopped before this answer was complete; send the request again",
            "generation_aborted",
        ),
        (
            FakeEngine(crash_after=2),
            "The server failed on this request; its log says why.",
            "internal_error",
        ),
    ],
)
async def test_an_error_after_the_first_byte_is_an_event(
    connect: Connect, engine: FakeEngine, message: str, code: str
) -> None:
    client = connect(FakeServing(engine))
    body = {"model": "sql", "messages": HELLO, "n": 2}
    streamed = await client.post(CHAT, json={**body, "stream": True})
    assert streamed.status_code == 200
    *_, error, done = events(streamed.text)
    assert json.loads(error) == {
        "error": {"message": message, "type": "server_error", "param": None, "code": code}
    }
    assert done == "[DONE]"
    whole = await client.post(CHAT, json=body)
    assert whole.status_code == (503 if code == "generation_aborted" else 500)
    assert whole.json() == json.loads(error)
    assert engine.num_running == 0


async def test_an_error_of_the_first_delta_is_a_status(connect: Connect) -> None:
    client = connect(FakeServing(FakeEngine(fail_after=0)))
    answer = await client.post(CHAT, json={"model": "sql", "messages": HELLO, "stream": True})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "generation_failed"


async def test_one_of_several_prompts_failing_ends_all(connect: Connect) -> None:
    engine = FakeEngine(lambda request, i: "x" * 200, fail_after=2)
    body = {"model": "sql", "prompt": ["a", "b", "c"], "max_tokens": 100}
    answer = await connect(FakeServing(engine)).post("/v1/completions", json=body)
    assert answer.status_code == 500
    assert engine.num_running == 0
    assert len(engine.aborted) == 3


def test_a_silent_stream_begins_and_is_kept_alive() -> None:
    settings = ApiSettings(opening_seconds=0.0, keep_alive_seconds=0.05)
    serving = FakeServing(FakeEngine(hang_after=0), settings=settings)
    body = {"model": "sql", "messages": HELLO, "stream": True}
    with serve(serving.app()) as address:
        with httpx.stream("POST", address + CHAT, json=body) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert '"role":"assistant"' in next(lines)
            assert next(line for line in lines if line) == ": keep-alive"
        assert serving.engine.has_aborted.wait(timeout=10)
    assert serving.engine.num_running == 0


def test_a_client_that_leaves_before_the_first_token_aborts() -> None:
    serving = FakeServing(FakeEngine(hang_after=0), settings=ApiSettings(opening_seconds=60.0))
    body = {"model": "sql", "messages": HELLO, "stream": True}
    with serve(serving.app()) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address + CHAT, json=body, timeout=httpx.Timeout(10, read=0.3))
        assert serving.engine.has_aborted.wait(timeout=10)
    assert serving.engine.num_running == 0


async def test_a_stream_that_outlives_the_shutdown_grace_is_told(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AppStatus, "should_exit", True)
    settings = ApiSettings(shutdown_grace_seconds=0.1)
    serving = FakeServing(FakeEngine(hang_after=2), settings=settings)
    body = {"model": "sql", "messages": HELLO, "stream": True}
    *_, last, error, done = events((await connect(serving).post(CHAT, json=body)).text)
    assert json.loads(last)["choices"][0]["delta"] == {"content": "q"}
    assert json.loads(error)["error"]["code"] == "generation_aborted"
    assert done == "[DONE]"
    assert len(serving.engine.aborted) == 1


async def test_vllms_load_and_unload(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)

    async def load(**body: object) -> httpx.Response:
        return await client.post("/v1/load_lora_adapter", json=body)

    async def unload(**body: object) -> httpx.Response:
        return await client.post("/v1/unload_lora_adapter", json=body)

    answer = await load(lora_name="new", lora_path="/adapters/new")
    assert (answer.status_code, answer.text) == (
        200,
        "Success: LoRA adapter 'new' added successfully.",
    )
    assert answer.headers["content-type"].startswith("text/plain")
    answer = await load(lora_name="new", lora_path="/adapters/new")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "The lora adapter 'new' has already been loaded. If you want to load the adapter in "
        "place, set 'load_inplace' to True."
    )
    answer = await load(lora_name="new", lora_path="/adapters/new", load_inplace=True)
    assert answer.status_code == 200
    assert serving.catalog.loaded[-1] == ("new", "/adapters/new", True)
    answer = await unload(lora_name="new")
    assert (answer.status_code, answer.text) == (
        200,
        "Success: LoRA adapter 'new' removed successfully.",
    )
    answer = await unload(lora_name="new")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "The lora adapter 'new' cannot be found."


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "load",
            {"lora_name": "x"},
            400,
            "Both 'lora_name' and 'lora_path' must be provided.",
        ),
        ("load", {}, 400, "Both 'lora_name' and 'lora_path' must be provided."),
        (
            "load",
            {"lora_name": "x", "lora_path": "/etc"},
            404,
            "Loading lora x failed: No adapter found for '/etc'.",
        ),
        (
            "load",
            {"lora_name": BASE_ID, "lora_path": "/adapters/x"},
            400,
            f"The lora adapter name '{BASE_ID}' is the base model's; choose another.",
        ),
        ("unload", {}, 400, "'lora_name' needs to be provided to unload a LoRA adapter."),
    ],
)
async def test_vllms_refusals(
    connect: Connect, path: str, body: dict[str, object], status: int, message: str
) -> None:
    answer = await connect(FakeServing()).post(f"/v1/{path}_lora_adapter", json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)


async def test_a_broken_adapter_is_told_with_all_problems(connect: Connect) -> None:
    body = {"lora_name": "x", "lora_path": "/adapters/bad"}
    answer = await connect(FakeServing()).post("/v1/load_lora_adapter", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_adapter"
    assert "rank 0" in answer.text
    assert "no tensors" in answer.text


async def test_health_and_version(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/ready")).status_code == 200
    serving.engine.is_ready = False
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health")).status_code == 503
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "not_ready"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", (await client.get("/version")).json()["version"])


async def test_metrics_count_answers_by_route(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    for _ in range(2):
        await client.post(CHAT, json={"model": "sql", "messages": HELLO})
    await client.post(CHAT, json={"model": "nobody", "messages": HELLO})
    await client.get("/v1/models/sql")
    await client.get("/v1/models/polite")
    await client.get("/some/path")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [
        line for line in answer.text.splitlines() if line.startswith("switchyard_http_requests")
    ]
    assert set(lines) >= {
        'switchyard_http_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        'switchyard_http_requests_total{route="/v1/chat/completions",status="404"} 1.0',
        'switchyard_http_requests_total{route="/v1/models/{model_id:path}",status="200"} 2.0',
        'switchyard_http_requests_total{route="unmatched",status="404"} 1.0',
    }
    assert serving.scrapes == [0]


async def test_a_bug_is_an_error_object_and_counted(connect: Connect) -> None:
    serving = FakeServing(FakeEngine(error=RuntimeError("secret detail")))
    client = connect(serving)
    answer = await client.post(CHAT, json={"model": "sql", "messages": HELLO})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    labels = {"route": CHAT, "status": "500"}
    assert serving.registry.get_sample_value("switchyard_http_requests_total", labels) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
    ],
)
async def test_unknown_routes_and_methods(
    connect: Connect, method: str, path: str, status: int, code: str
) -> None:
    answer = await connect(FakeServing()).request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    assert method in error["message"]
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"{", {}, "The body isn't valid JSON"),
        (b"[]", {}, "The body must be a JSON object"),
        (b"", {}, "The body isn't valid JSON"),
        (b'{"model": "sql"}', {}, "Missing field: messages is required"),
        (b"{}", {"content-type": "text/plain"}, "send Content-Type: application/json"),
        (b'{"model": "\xff"}', {}, "The body isn't valid JSON"),
        (rb'{"model": "\ud800"}', {}, "The body isn't valid JSON"),
    ],
)
async def test_bodies_that_are_no_request(
    connect: Connect, content: bytes, headers: dict[str, str], message: str
) -> None:
    headers = {"content-type": "application/json", **headers}
    answer = await connect(FakeServing()).post(CHAT, content=content, headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_body_over_the_limit() -> None:
    serving = FakeServing(settings=ApiSettings(max_body_bytes=2048))
    body = json.dumps({"model": "sql", "messages": [{"role": "user", "content": "x" * 300_000}]})

    def in_chunks() -> list[bytes]:
        return [body[i : i + 1000].encode() for i in range(0, len(body), 1000)]

    headers = {"content-type": "application/json"}
    with serve(serving.app()) as address, httpx.Client(base_url=address) as client:
        announced = client.post(CHAT, content=body.encode(), headers=headers)
        chunked = client.post(CHAT, content=iter(in_chunks()), headers=headers)
    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert "2048" in answer.json()["error"]["message"]
    assert serving.engine.requests == []


async def test_a_long_prompt_does_not_go_through_the_event_loop(connect: Connect) -> None:
    answer = await connect(FakeServing()).post(
        CHAT, json={"model": "sql", "messages": [{"role": "user", "content": "x" * 20_000}]}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_loading_does_not_hold_up_answers(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    body = {"lora_name": "new", "lora_path": "/adapters/new"}
    loaded, answered = await asyncio.gather(
        client.post("/v1/load_lora_adapter", json=body),
        client.post(CHAT, json={"model": "sql", "messages": HELLO}),
    )
    assert (loaded.status_code, answered.status_code) == (200, 200)
