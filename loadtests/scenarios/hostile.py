"""Requests that no server should fall over: each must be refused with a 4xx, or answered."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtests.scenarios.records import Outcome

_CHAT = "/v1/chat/completions"
_IMMENSE_BYTES = 8 << 20  # the server's default limit
_POSTS = (
    _CHAT, "/v1/completions", "/v1/responses", "/tokenize", "/detokenize",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/adapters/merge",
)  # fmt: skip
_NUMBERS = (
    -1, 0, 1e308, -1e308, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.1 + 0.2, 1e-320, True,
)  # fmt: skip
_TEXTS = (
    "", "\x00", "\ud800", "\u202e\u0007\x1b[31m", "A" * 100_000, "../" * 50 + "etc/passwd",
    "{{7*7}}{% for x in range(10**9) %}{% endfor %}", "'; DROP TABLE adapters; --", "\r\nX: y",
    "%00%ff", "💥" * 5000,
)  # fmt: skip
_FIELDS = (
    "model", "messages", "prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "stop",
    "seed", "logit_bias", "response_format", "tools", "tool_choice", "logprobs", "top_logprobs",
    "stream", "stream_options", "adapters", "presence_penalty", "frequency_penalty", "user",
    "metadata", "best_of", "echo", "suffix", "guided_regex", "guided_json", "min_p", "input",
    "lora_name", "lora_path", "tokens", "unheard_of", "__proto__",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attack:
    """One request; `name` is its family."""

    name: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def judge(status: int, failure: str, num_body_bytes: int = 0) -> Outcome:
    """2xx to 4xx is an answer; a 5xx is a fault; no answer is broken.

    A server answers 413 and hangs up without reading an immense body: whoever is still sending it
    may see the reset before the answer.
    """
    if failure or status == 0:
        return Outcome.REFUSED if num_body_bytes > _IMMENSE_BYTES else Outcome.BROKEN
    if status in (429, 503):
        return Outcome.REFUSED
    return Outcome.FAULT if status >= 500 else Outcome.REFUSED


def _encoded(document: object) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _valid(draw: random.Random) -> dict[str, Any]:
    return {
        "model": draw.choice(("smollm2-135m-instruct", "polite", "no-such-model")),
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
        "temperature": 0,
    }


def _strange_value(draw: random.Random) -> object:
    kinds: tuple[Callable[[], object], ...] = (
        lambda: draw.choice(_NUMBERS),
        lambda: draw.choice(_TEXTS),
        lambda: None,
        lambda: [draw.choice(_TEXTS)] * draw.choice((1, 5, 1000)),
        lambda: {draw.choice(_TEXTS)[:20]: draw.choice(_NUMBERS)},
        lambda: [[]],
        lambda: _nested(draw.choice((3, 60))),
    )
    return draw.choice(kinds)()


def _nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


def _strange_fields(draw: random.Random) -> Attack:
    body = _valid(draw)
    for name in draw.sample(_FIELDS, draw.randint(1, 4)):
        body[name] = _strange_value(draw)
    return Attack("strange field values", draw.choice(_POSTS), _encoded(body))


def _missing_fields(draw: random.Random) -> Attack:
    # Without max_tokens what is left may be a good request for an answer of the whole window.
    body = {k: v for k, v in _valid(draw).items() if draw.random() < 0.5 or k == "max_tokens"}
    return Attack("missing fields", draw.choice(_POSTS), _encoded(body))


def _broken_json(draw: random.Random) -> Attack:
    text = _encoded(_valid(draw))
    cut = draw.randint(0, len(text) - 1)
    position = draw.randint(0, len(text) - 1)
    flipped = bytes([text[position] ^ draw.randint(1, 255)])
    body = draw.choice((text[:cut], text[:position] + flipped + text[position + 1 :]))
    return Attack("broken JSON", draw.choice(_POSTS), body)


def _bad_bytes(draw: random.Random) -> Attack:
    body = draw.randbytes(draw.choice((1, 10, 1000)))
    return Attack("random bytes", draw.choice(_POSTS), body)


def _bad_utf8(draw: random.Random) -> Attack:
    broken = draw.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"))
    body = b'{"model": "polite", "messages": [{"role": "user", "content": "' + broken + b'"}]}'
    return Attack("bad UTF-8", _CHAT, body)


def _deep_json(draw: random.Random) -> Attack:
    depth = draw.choice((100, 1000, 20_000))
    body = draw.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    return Attack("deep JSON", draw.choice(_POSTS), body)


def _huge_numbers(draw: random.Random) -> Attack:
    name = draw.choice(("max_tokens", "temperature", "n", "seed", "top_k", "top_logprobs"))
    digits = "9" * draw.choice((20, 400, 5000))
    number = draw.choice((digits, "-" + digits, "1e" + digits[:6], "0." + digits))
    body = _encoded(_valid(draw))[:-1] + f', "{name}": {number}}}'.encode()
    return Attack("huge numbers", _CHAT, body)


def _repeated_keys(draw: random.Random) -> Attack:
    count = draw.choice((2, 100, 5000))
    body = b"{" + b",".join([b'"model": "polite"'] * count) + b"}"
    return Attack("repeated keys", draw.choice(_POSTS), body)


def _abused_headers(draw: random.Random) -> Attack:
    headers = draw.choice(
        (
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/json; charset=utf-16"},
            {"Content-Type": "multipart/form-data; boundary=" + "x" * 2000},
            {"X-Request-Id": "a" * 10_000},
            {"X-Request-Id": "new\tline\x7f"},
            {"Authorization": "Bearer " + "k" * 5000},
            {"Authorization": "Basic !!!"},
            {"Content-Encoding": "gzip"},
            {"traceparent": "00-" + "0" * 32 + "-" + "z" * 16 + "-01"},
            {"Accept": "application/xml"},
            {"Expect": "200-maybe"},
            {f"X-Many-{i}": "v" * 50 for i in range(90)},
        )
    )
    return Attack("abused headers", draw.choice(_POSTS), _encoded(_valid(draw)), headers)


def _strange_paths(draw: random.Random) -> Attack:
    path = draw.choice(
        (
            "/", "/v1", "/v1/", "/v1/chat", "/v1//chat/completions", "/../../etc/passwd",
            "/v1/models/%00", "/v1/models/..%2f..%2fetc", "/v1/adapters/%ff/alias",
            "/v1/adapters/..%2f/pin", "/metrics", "/" + "a" * 4000, "/v1/adapters/polite/unheard",
        )
    )  # fmt: skip
    return Attack("strange paths", path, _encoded(_valid(draw)))


def _hostile_grammars(draw: random.Random) -> Attack:
    schema: object = draw.choice(
        (
            {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
            {"$ref": "#"},
            {"type": "nonsense"},
            {"type": "string", "pattern": "(a+)+$" * 20},
            {"enum": ["x" * 100] * 2000},
            {"type": "array", "minItems": 10**9},
            {"allOf": [{"type": "string"}, {"type": "number"}]},
            _nested(40),
        )
    )
    wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {**_valid(draw), "model": "smollm2-135m-instruct", "response_format": wrapped}
    return Attack("hostile grammars", _CHAT, _encoded(body))


_FAMILIES: tuple[Callable[[random.Random], Attack], ...] = (
    _strange_fields, _strange_fields, _strange_fields, _missing_fields, _broken_json, _bad_bytes,
    _bad_utf8, _deep_json, _huge_numbers, _repeated_keys, _abused_headers, _strange_paths,
    _hostile_grammars,
)  # fmt: skip


def random_attack(draw: random.Random) -> Attack:
    """One of them, the same for the same state of `draw`."""
    return draw.choice(_FAMILIES)(draw)
