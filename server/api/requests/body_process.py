"""Reads large JSON bodies in a process of its own.

pydantic and the JSON parser hold Python's lock while they work, so no thread helps: a body of a
million numbers stopped every stream for a second.
"""

import contextlib
import pickle
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from adapters.base.host_memory import return_freed_memory
from server.api.requests.body_problems import explain
from server.core.errors import OverloadedError, RequestError

Body = TypeVar("Body", bound=BaseModel)

_LENGTH_BYTES = 8


class BodyProcess:
    """One child, begun with the first large body, which reads one body at a time.

    Safe to use from several threads. It ends with this process: its input ends then.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []  # one at most
        weakref.finalize(self, _end, self._children)

    def parse(self, schema: type[Body], content: bytes) -> Body:
        """The body. Blocks: call it on a thread.

        Raises `RequestError` as `explain` has it, and `OverloadedError` when the child ended.
        """
        with self._one_at_a_time:
            child = self._living_child()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                _write(child.stdin, _Order(schema, content))
                answer = _read(child.stdout)
            except (OSError, EOFError) as error:
                self.close()
                raise OverloadedError(
                    "the process that reads large bodies ended; send the request again"
                ) from error
        return checked(schema, answer)

    def close(self) -> None:
        """End the child, if there is one."""
        _end(self._children)

    def _living_child(self) -> subprocess.Popen[bytes]:
        if self._children and self._children[0].poll() is not None:
            self.close()
        if not self._children:
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "server.api.requests.body_child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # a Ctrl-C is the server's alone
                )
            )
        return self._children[0]


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    while children:
        child = children.pop()
        child.kill()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        child.wait()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is wrong with a body, and with which of its fields."""

    message: str
    param: str | None


def parsed(schema: type[Body], content: bytes) -> Body | Refusal:
    """The body, or what is wrong with it."""
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        refusal = explain(error, schema)
        return Refusal(str(refusal), refusal.param)


def checked(schema: type[Body], answer: object) -> Body:
    """The body that `parsed` found. Raises `RequestError` for a refusal."""
    if isinstance(answer, Refusal):
        raise RequestError(answer.message, answer.param)
    assert isinstance(answer, schema)
    return answer


@dataclass(frozen=True, slots=True)
class _Order:
    schema: type[BaseModel]
    content: bytes


def _write(pipe: IO[bytes], value: object) -> None:
    packed = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    pipe.write(len(packed).to_bytes(_LENGTH_BYTES, "little") + packed)
    pipe.flush()


def _read(pipe: IO[bytes]) -> object:
    """What the other side wrote. Raises `EOFError` when it ended."""
    length = pipe.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        raise EOFError
    return pickle.loads(pipe.read(int.from_bytes(length, "little")))


def serve_parent() -> None:
    """The child: bodies in, parsed bodies out, until its input ends."""
    while True:
        try:
            order = _read(sys.stdin.buffer)
        except EOFError:
            return
        assert isinstance(order, _Order)
        _write(sys.stdout.buffer, parsed(order.schema, order.content))
        del order
        return_freed_memory()
