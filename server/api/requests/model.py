"""What all request bodies share: every field is known, and nothing accepted is ignored."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from server.api.requests.unsupported import Neutral


def refuse(field: str, message: str) -> PydanticCustomError:
    """An error that `server.api.requests.body` reports under the name of `field`."""
    return PydanticCustomError("refused", "{text}", {"field": field, "text": message})


Rule = Mapping[str, Any]

NULL: Final[Rule] = {"type": "null"}
_MAX_EXACT = 2**53


class RequestBody(BaseModel):
    """A JSON object whose fields are all known. A null means the same as leaving the field out.

    `rules` are JSON schemas that say for the OpenAPI document what validators check across fields.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)
    not_honoured: ClassVar[Neutral] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _leave_out_neutral(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept: dict[str, Any] = {}
        for name, value in data.items():
            neutral = cls.not_honoured.get(name)
            if neutral is None:
                if value is not None or name not in cls.model_fields:
                    kept[name] = _whole(value)
            elif value is not None and not any(_is_same(value, n) for n in neutral):
                raise refuse(name, f"Unsupported field: {name}. {_way_out(neutral)}")
        return kept


def _is_same(value: Any, other: object) -> bool:
    """Equal as JSON values: to Python 0 and False are."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is the integer 5."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        return int(value)
    return value


def _way_out(neutral: tuple[object, ...]) -> str:
    values = [repr(value) for value in neutral]
    return "This server doesn't honour it: leave it out" + "".join(
        f" or set it to {value}" for value in values[:1]
    )
