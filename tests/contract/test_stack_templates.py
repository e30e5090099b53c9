"""Adapters that were trained with different chat templates aren't stacked in a chat."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from server.api.generation.conversation import stack_template
from server.core.errors import RequestError
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from tests.fakes.api_app import FakeServing
from tests.fakes.api_catalog import FakeCatalog
from tests.fakes.api_server import serve

HELLO: Any = [{"role": "user", "content": "Hello"}]


def stack_of(*templates: str | None) -> AdapterStack:
    return AdapterStack(
        tuple(
            StackMember(
                AdapterVersion(f"a{i}", 1, f"d{i}", 8, Path("none"), chat_template=template)
            )
            for i, template in enumerate(templates)
        )
    )


@pytest.mark.parametrize(
    ("templates", "chosen"),
    [
        ((), None),
        ((None, None), None),
        (("one", None), "one"),
        ((None, "one"), "one"),
        (("one", None, "one"), "one"),
        (("", None, ""), None),
    ],
)
def test_those_with_a_template_decide(templates: tuple[str | None, ...], chosen: str) -> None:
    assert stack_template(stack_of(*templates)) == chosen


@pytest.mark.parametrize(
    "templates", [("one", "two"), ("one", ""), ("one", None, "two"), ("one", "one", "two")]
)
def test_two_templates_are_refused(templates: tuple[str | None, ...]) -> None:
    odd = len(templates) - 1
    with pytest.raises(RequestError, match=f"a0@1 and a{odd}@1 .*different chat templates") as told:
        stack_template(stack_of(*templates))
    assert told.value.param == "model"


class EachItsOwn(FakeCatalog):
    """Every adapter was trained with a template of its own."""

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        members = super().resolve(expression, sticky_key).members
        return AdapterStack(
            tuple(
                replace(m, adapter=replace(m.adapter, chat_template=f"of {m.adapter.name}"))
                for m in members
            )
        )


@pytest.fixture
def serving() -> FakeServing:
    return FakeServing(catalog=EachItsOwn())


@pytest.fixture
def client(serving: FakeServing) -> Iterator[openai.OpenAI]:
    with ExitStack() as stack:
        address = stack.enter_context(serve(serving.app()))
        yield stack.enter_context(
            openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
        )


def test_a_chat_over_both_is_a_400_and_never_reaches_the_engine(
    client: openai.OpenAI, serving: FakeServing
) -> None:
    with pytest.raises(openai.BadRequestError, match="different chat templates") as caught:
        client.chat.completions.create(model="sql+polite:0.5", messages=HELLO)
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="different chat templates"):
        client.responses.create(model="sql+polite:0.5", input="Hello")
    assert serving.engine.requests == []


def test_completions_have_no_template_and_are_served(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="sql+polite:0.5", prompt="Hello")
    assert answer.model == "sql@3+polite@1:0.5"
