"""From the words of a request to what serves it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from server.api.requests.generation import StackedAdapter
from server.core.errors import AdapterUnavailableError, RequestError
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog
from server.core.stack import BASE_STACK, AdapterStack

MAX_SCALE = 10_000.0
"""Of an adapter in a stack, either sign: three factors of it in a row (gate, up and down of an
MLP), squared in a norm, stay finite in float32 and bfloat16."""

# Anything else can't name an adapter, so it is an unknown model rather than a broken expression.
_MAX_HEADER_CHARS = 1000
_EXPRESSION = re.compile(r"[A-Za-z0-9._@:+\-]+")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What answers one request. `expression` is what the answer calls it.

    `warnings` say how its adapters were made for another base than the one that answers.
    """

    expression: str
    stack: AdapterStack
    warnings: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """`x-adapter-digest` unless the base answers alone, and `x-switchyard-warning`."""
        headers = {"x-adapter-digest": self.stack.digest} if self.stack.members else {}
        if self.warnings:
            headers["x-switchyard-warning"] = _header_text("; ".join(self.warnings))
        return headers


def resolve_model(
    model: str,
    adapters: Sequence[StackedAdapter] | None,
    *,
    info: ModelInfo,
    catalog: AdapterCatalog,
    sticky_key: str | None = None,
) -> ServedModel:
    """The versions that `model`, or `adapters` beside the base's name, mean at this moment.

    Where a name is a canary, requests with equal `sticky_key` get equal versions.
    Raises `AdapterUnavailableError` for what isn't there and `RequestError` for what can't be read.
    """
    if adapters:
        if not info.is_base(model):
            raise RequestError(
                f"adapters goes with the base model, and model is '{model}': set model to "
                f"'{info.base_id}', or write the stack in model and leave adapters out",
                "adapters",
            )
        model = "+".join(f"{a.name}:{_plain(a.scale)}" for a in adapters)
    elif info.is_base(model):
        return ServedModel(info.base_id, BASE_STACK)
    elif not _EXPRESSION.fullmatch(model):
        raise AdapterUnavailableError(
            f"The model '{model}' does not exist. GET /v1/models lists what this server has"
        )
    stack = catalog.resolve(model, sticky_key)
    return ServedModel(stack.expression, stack, tuple(catalog.warnings(stack)))


def check_scales(scales: Iterable[tuple[str, float]], param: str) -> None:
    """Scales of adapters, each by its name.

    Raises `RequestError` for one that would leave the range of the model's numbers.
    """
    for name, scale in scales:
        if abs(scale) > MAX_SCALE:
            raise RequestError(
                f"the scale of {name} is {scale:g}; scales are from -{MAX_SCALE:g} to "
                f"{MAX_SCALE:g}",
                param,
            )


def _header_text(text: str) -> str:
    """Printable ASCII, as much as a header may well have."""
    plain = text.encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in plain)[:_MAX_HEADER_CHARS]


def _plain(scale: float) -> str:
    """All digits of `scale`, without an exponent: its sign looks like the next adapter's."""
    return format(Decimal(repr(scale)), "f")
