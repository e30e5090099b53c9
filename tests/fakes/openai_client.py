"""The `openai` package connected to an app over fakes, and what the tests say through it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import openai
import pytest

from tests.fakes.api_app import INFO, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_server import serve

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
WIDE = replace(INFO, max_model_len=2048)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
Connect = Callable[[FakeServing], openai.OpenAI]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(serving: FakeServing) -> openai.OpenAI:
            address = stack.enter_context(serve(serving.app()))
            return stack.enter_context(
                openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
            )

        yield connect


def saying(text: str) -> FakeServing:
    return FakeServing(FakeEngine(lambda request, choice: text), info=WIDE)
