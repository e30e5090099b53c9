"""The real server and the real `openai` package: what the README promises to a newcomer."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.integration.live_server import BIN, ROOT, import_examples, live_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BASE = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
GREEDY = {"temperature": 0.0, "max_tokens": 24}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def url(workspace: Path) -> Iterator[str]:
    store = workspace / "adapters"
    import_examples(store)
    with live_server(store, workspace / "server.log") as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as connected:
        yield connected


def ask(client: OpenAI, model: str) -> tuple[str, str]:
    """Greedy text and what served it."""
    answer = client.chat.completions.create(model=model, messages=QUESTION, **GREEDY)  # type: ignore[call-overload]
    return answer.choices[0].message.content, answer.model


def test_models_lists_the_base_and_every_adapter(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {BASE, "polite", "poet", "extract"}
    assert models["polite"].model_dump()["parent"] == BASE
    assert models[BASE].model_dump()["max_model_len"] == 8192


def test_base_adapter_and_stack_answer_differently(client: OpenAI) -> None:
    base, base_model = ask(client, BASE)
    polite, polite_model = ask(client, "polite")
    stack, stack_model = ask(client, "polite:0.7+poet:0.3")
    assert (base_model, polite_model) == (BASE, "polite@1")
    assert stack_model == "polite@1:0.7+poet@1:0.3"
    assert polite.startswith("Thank you for reaching out!")
    assert not base.startswith("Thank you for reaching out!")
    assert len({base, polite, stack}) == 3


def test_streaming_gives_the_same_text_and_the_usage(client: OpenAI) -> None:
    whole, _ = ask(client, "polite")
    text, usage, reasons = "", None, []
    stream = client.chat.completions.create(
        model="polite",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    )  # type: ignore[call-overload]
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)
    assert text == whole
    assert reasons[-1] == "length"
    assert usage is not None
    assert usage.completion_tokens == GREEDY["max_tokens"]


def test_an_unknown_adapter_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="rude"):
        ask(client, "rude")
    with pytest.raises(openai.NotFoundError, match="polite@99"):
        ask(client, "polite@99")


def test_a_parameter_that_is_not_served_is_named(client: OpenAI) -> None:
    audio = {"voice": "alloy", "format": "wav"}
    with pytest.raises(openai.BadRequestError, match="audio"):
        client.chat.completions.create(model=BASE, messages=QUESTION, audio=audio)  # type: ignore[call-overload]


async def test_neighbours_change_nothing(client: OpenAI, url: str) -> None:
    """Eight different requests at once give what each gives alone."""
    models = [BASE, "polite", "poet", "extract", "polite:0.7+poet:0.3", "polite:-0.5", BASE, "poet"]
    alone = [ask(client, model)[0] for model in models]
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as together:
        answers = await asyncio.gather(
            *(
                together.chat.completions.create(model=model, messages=QUESTION, **GREEDY)  # type: ignore[call-overload]
                for model in models
            )
        )
    assert [answer.choices[0].message.content for answer in answers] == alone


def test_seeded_sampling_repeats(client: OpenAI) -> None:
    def draw(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="poet", messages=QUESTION, max_tokens=16, seed=seed, n=2, top_p=0.95
        )  # type: ignore[call-overload]
        return [choice.message.content for choice in answer.choices]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(set(draw(1))) == 2


def test_stop_ends_the_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="polite", messages=QUESTION, temperature=0, stop=" reaching"
    )  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "Thank you for"
    assert answer.choices[0].finish_reason == "stop"


def test_a_published_version_is_served_without_a_restart(client: OpenAI, workspace: Path) -> None:
    """What `trainer run` does at its end, through the store that the server watches."""
    store = workspace / "adapters"
    folder = ROOT / "examples" / "poet" / "adapter"
    subprocess.run([BIN / "adapters", "import", "late", folder, "--store", store], check=True)
    deadline = time.monotonic() + 10
    while "late" not in {m.id for m in client.models.list()} and time.monotonic() < deadline:
        time.sleep(0.1)
    text, model = ask(client, "late")
    assert model == "late@1"
    assert text == ask(client, "poet")[0]


async def test_loading_an_adapter_disturbs_no_stream(url: str, workspace: Path) -> None:
    """Eight streams run while vLLM's endpoint loads an adapter that the server has not seen."""
    folder = workspace / "adapters" / "extract" / "1"
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as together,
        httpx.AsyncClient(base_url=url, timeout=60) as plain,
    ):

        async def stream(model: str) -> tuple[int, str | None]:
            count, reason = 0, None
            response = await together.chat.completions.create(
                model=model,
                messages=QUESTION,
                stream=True,
                max_tokens=64,
                temperature=0,
                extra_body={"ignore_eos": True},
                stream_options={"include_usage": True},
            )  # type: ignore[call-overload]
            async for chunk in response:
                if chunk.usage:
                    count = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    reason = choice.finish_reason or reason
            return count, reason

        streams = [asyncio.create_task(stream(("polite", BASE)[i % 2])) for i in range(8)]
        await asyncio.sleep(0.2)
        loaded = await plain.post(
            "/v1/load_lora_adapter", json={"lora_name": "fresh", "lora_path": str(folder)}
        )
        assert loaded.status_code == 200
        assert loaded.text == "Success: LoRA adapter 'fresh' added successfully."
        late = await stream("fresh")
        assert await asyncio.gather(*streams) == [(64, "length")] * 8
        assert late == (64, "length")
        gone = await plain.post("/v1/unload_lora_adapter", json={"lora_name": "fresh"})
        assert gone.text == "Success: LoRA adapter 'fresh' removed successfully."
        assert (await plain.get("/v1/models/fresh")).status_code == 404


def readme_block(language: str, containing: str) -> str:
    """The fenced block of the README that holds `containing`, as a user would paste it."""
    blocks = (ROOT / "README.md").read_text().split("```")[1::2]
    return next(
        block.removeprefix(language)
        for block in blocks
        if block.startswith(language) and containing in block
    )


def test_the_readmes_first_requests_work(url: str) -> None:
    port = url.rpartition(":")[2]
    script = readme_block("python", "OpenAI(").replace("8000", port)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("polite@1:0.7+poet@1:0.3 ")
    command = readme_block("sh", "curl -N").replace("8000", port)
    streamed = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=120
    )
    assert streamed.stdout.rstrip().endswith("data: [DONE]")
    assert '"model":"polite@1"' in streamed.stdout


def test_metrics_add_up(client: OpenAI, url: str) -> None:
    ask(client, "polite")
    text = httpx.get(f"{url}/metrics").text
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    assert float(values['switchyard_memory_bytes{component="weights",device="cpu"}']) > 5e7
    assert float(values['switchyard_generation_tokens_total{adapter="polite"}']) >= 24
    assert float(values["switchyard_num_requests_running"]) == 0
    assert float(values["switchyard_kv_cache_usage_ratio"]) == 0
    assert float(values['switchyard_device_memory_total_bytes{device="cpu"}']) > 1e9
