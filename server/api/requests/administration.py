"""Bodies of the administrating routes."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapters.stack import MAX_TERMS
from server.api.requests.generation import StackedAdapter
from server.api.requests.model import NULL, RequestBody

VersionKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]


class AliasBody(RequestBody):
    """`PUT /v1/adapters/{name}/alias`: one version, or a canary's weights over several."""

    rules = (
        {
            "anyOf": [
                {
                    "properties": {"version": {"type": "integer"}, "weights": NULL},
                    "required": ["version"],
                },
                {
                    "properties": {"version": NULL, "weights": {"type": "object"}},
                    "required": ["weights"],
                },
            ]
        },
    )

    version: int | None = Field(None, ge=1)
    weights: dict[VersionKey, float] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.version is None) == (self.weights is None):
            text = 'give either "version": 3 or "weights": {"3": 0.9, "4": 0.1}'
            raise PydanticCustomError("refused", "{text}", {"field": "version", "text": text})
        return self

    def as_weights(self) -> dict[int, float]:
        """Version -> weight."""
        if self.version is not None:
            return {self.version: 1.0}
        return {int(key): weight for key, weight in (self.weights or {}).items()}


class MergeBody(RequestBody):
    """`POST /v1/adapters/merge`. `scale` of an adapter is its weight."""

    name: str = Field(min_length=1, max_length=128)
    adapters: list[StackedAdapter] = Field(min_length=2, max_length=MAX_TERMS)
    method: str = Field("cat", max_length=64)
    rank: int | None = Field(None, ge=1)
    density: float | None = Field(None, gt=0.0, le=1.0)
    seed: int = Field(0, ge=0, lt=2**63)
