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

from adapters.file_trust import secret_problem
from server.api.access.keys import KeyRecord
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
    """The records of a keys file. Raises `ConfigurationError` with every problem.

    A file that says nothing is a problem (it was cut off, or isn't written yet); one that says
    `keys: []` has no keys. So is one that others than its owner can reach.
    """
    try:
        with path.open("rb") as file:
            exposure = secret_problem(path, os.fstat(file.fileno()))
            content = file.read()
    except OSError as error:
        raise ConfigurationError([f"the keys file {path} can't be read: {error}"]) from error
    records, problems = _parsed(path, content)
    if exposure is not None:
        problems.insert(0, f"the keys file can be reached by others: {exposure}")
    if problems:
        raise ConfigurationError(problems)
    return records


def _parsed(path: Path, content: bytes) -> tuple[tuple[KeyRecord, ...], list[str]]:
    """The records in a file's content, or what is wrong with it."""
    try:
        loaded = yaml.safe_load(content.decode())
    except UnicodeDecodeError as error:
        return (), [f"the keys file {path} can't be read: {error}"]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date that isn't one, a number of too many digits.
        return (), [f"the keys file {path} isn't YAML: {error}"]
    if not loaded:
        return (), [
            f"the keys file {path} is empty; one without keys says `keys: []`, and `server keys "
            "new NAME` makes a key"
        ]
    try:
        return _KeyFile.model_validate(loaded).keys, []
    except ValidationError as error:
        return (), [
            f"{path}: {'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]


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


async def watch_keys(
    path: Path,
    replace: Callable[[Sequence[KeyRecord]], None],
    refuse: Callable[[], None] = lambda: None,
) -> None:
    """Call `replace` with the new records whenever the file changes. Runs until cancelled.

    The folder is watched, because writers put a new file in the old one's place. A file that
    can't be used changes nothing: the log says why, and `refuse` is called.
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
            refuse()
        else:
            logger.info("the keys file has %d keys now", len(records))
            replace(records)
