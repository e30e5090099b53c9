"""What every part of the config is: frozen, and strict about its keys."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A part of the config: frozen, and a key that isn't there is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def split_names(value: object) -> object:
    """`a,b` as `[a, b]`; anything else as it is."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]
"""A list of names; `a,b` means `[a, b]`, which is easier to type on a command line."""
