"""The keys file: YAML, one record a key; `server keys` writes it, a running server follows it."""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from watchfiles import awatch

from server.api.keys import KeyRecord
from server.core.errors import ConfigurationError

logger = logging.getLogger(__name__)

_HEADER = """\
# API keys of a Switchyard server; written by `server keys`, which keeps no comments but this one.
# adapters, rights, the rates and priority may be edited here; a running server follows.
"""


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyRecord, ...] = ()

    @model_validator(mode="after")
    def _ids_and_names_differ(self) -> "_KeyFile":
        for field in ("id", "name"):
            values = [getattr(key, field) for key in self.keys]
            if twice := {value for value in values if values.count(value) > 1}:
                raise ValueError(f"two keys have the {field} {min(twice)}")
        return self


def read_keys(path: Path) -> tuple[KeyRecord, ...]:
    """The records of a keys file. Raises `ConfigurationError` with every problem."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _KeyFile.model_validate({} if loaded is None else loaded).keys
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"the keys file {path} can't be read: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"the keys file {path} isn't YAML: {error}"]) from error
    except ValidationError as error:
        raise ConfigurationError(
            [
                f"{path}: {'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)
            ]
        ) from error


def write_keys(path: Path, records: Sequence[KeyRecord]) -> None:
    """Replace the file at once, readable by its owner only."""
    plain = [record.model_dump(mode="json", exclude_none=True) for record in records]
    for entry in plain:
        entry["rights"] = sorted(entry["rights"])
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes it with mode 0600.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_HEADER + yaml.safe_dump({"keys": plain}, sort_keys=False))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


async def watch_keys(path: Path, replace: Callable[[Sequence[KeyRecord]], None]) -> None:
    """Call `replace` with the new records whenever the file changes. Runs until cancelled.

    The folder is watched, because writers put a new file in the old one's place. A file that
    can't be used changes nothing, and the log says why.
    """
    # `..data` is the link that Kubernetes moves when a mounted secret changes.
    names = (path.name, "..data")
    async for _changes in awatch(
        path.parent,
        watch_filter=lambda _, changed: Path(changed).name in names,
        debounce=200,
        recursive=False,
    ):
        try:
            records = await asyncio.to_thread(read_keys, path)
        except ConfigurationError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("the keys file has %d keys now", len(records))
            replace(records)
