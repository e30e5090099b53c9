"""From the words of a request to a stack."""

import pytest

from server.api.generation.resolution import resolve_model
from server.api.requests.generation import StackedAdapter
from server.core.errors import AdapterUnavailableError, RequestError
from server.core.stack import AdapterStack
from tests.fakes.api_app import BASE_ID, INFO
from tests.fakes.api_catalog import FakeCatalog


class RecordingCatalog(FakeCatalog):
    """Keeps the expressions that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.expressions: list[str] = []

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        self.expressions.append(expression)
        return super().resolve(expression)


@pytest.mark.parametrize("name", [BASE_ID, "base"])
@pytest.mark.parametrize("adapters", [None, []])
def test_the_base_alone(name: str, adapters: list[StackedAdapter] | None) -> None:
    served = resolve_model(name, adapters, info=INFO, catalog=FakeCatalog())
    assert (served.expression, served.stack.members, served.headers) == (BASE_ID, (), {})


def test_a_stack_carries_its_digest() -> None:
    served = resolve_model("sql:0.7+polite", None, info=INFO, catalog=FakeCatalog())
    assert served.expression == "sql@3:0.7+polite@1"
    assert served.headers == {"x-adapter-digest": served.stack.digest}


@pytest.mark.parametrize("scale", [1.0, 0.0, -0.3, 1e-07, 1e22, 0.1 + 0.2])
def test_scales_survive_the_way_through_an_expression(scale: float) -> None:
    catalog = RecordingCatalog()
    adapters = [StackedAdapter(name="sql", scale=scale), StackedAdapter(name="polite@1")]
    served = resolve_model(BASE_ID, adapters, info=INFO, catalog=catalog)
    assert [member.scale for member in served.stack.members] == [scale, 1.0]
    assert "e" not in catalog.expressions[0].replace("polite", "")
    assert catalog.expressions[0].count("+") == 1


def test_adapters_beside_an_adapters_name_are_refused() -> None:
    with pytest.raises(RequestError, match="adapters goes with the base model") as caught:
        resolve_model("sql", [StackedAdapter(name="sql")], info=INFO, catalog=FakeCatalog())
    assert caught.value.param == "adapters"


def test_a_name_that_no_adapter_can_have_is_unknown() -> None:
    catalog = RecordingCatalog()
    with pytest.raises(AdapterUnavailableError, match="'meta/llama' does not exist"):
        resolve_model("meta/llama", None, info=INFO, catalog=catalog)
    assert catalog.expressions == []


def test_an_expression_that_does_not_parse_is_a_bad_request() -> None:
    with pytest.raises(RequestError, match="no scale"):
        resolve_model("sql:abc", None, info=INFO, catalog=FakeCatalog())
