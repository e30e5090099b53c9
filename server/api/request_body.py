"""What all request bodies share: every field is known, and nothing accepted is ignored."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from server.api.unsupported import Neutral


def refuse(field: str, message: str) -> PydanticCustomError:
    """An error that `server.api.body` reports under the name of `field`."""
    return PydanticCustomError("refused", "{text}", {"field": field, "text": message})


class RequestBody(BaseModel):
    """A JSON object whose fields are all known. A null means the same as leaving the field out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)
    not_honoured: ClassVar[Neutral] = {}

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
                    kept[name] = value
            elif value is not None and value not in neutral:
                raise refuse(name, f"Unsupported field: {name}. {_way_out(neutral)}")
        return kept


def _way_out(neutral: tuple[object, ...]) -> str:
    values = [repr(value) for value in neutral]
    return "This server doesn't honour it: leave it out" + "".join(
        f" or set it to {value}" for value in values[:1]
    )
