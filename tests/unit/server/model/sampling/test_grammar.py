"""Grammars over a small byte-level tokenizer: what random logits write always has the shape."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from server.core.batch import ScheduledRow
from server.core.errors import RequestError
from server.core.grammar import GrammarKind, GrammarSpec
from server.core.logit_rules import LogitRules
from server.core.request import SamplingParams
from server.model.sampling.grammar import GrammarCache, GrammarMatcher, grammar_tokenizer
from server.model.sampling.sampler import sample
from server.model.sampling.token_masks import MaskWorker
from server.model.tokenizer import TransformersTokenizer

PADDED_VOCABULARY = 300
WORDS = ("true", '": ', "null", "é")


def byte_tokenizer() -> Any:
    """All bytes, an end token, and a few longer tokens."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(alphabet))}
    merges = []
    for word in WORDS:
        spelled = [pre_tokenizers.ByteLevel(False).pre_tokenize_str(c)[0][0] for c in word]
        for end in range(2, len(spelled) + 1):
            left, right = "".join(spelled[: end - 1]), spelled[end - 1]
            if left + right not in vocabulary and left in vocabulary and right in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
    rust = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<end>")


TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id
TABLE = grammar_tokenizer(TOKENIZER, vocab_size=PADDED_VOCABULARY, eos_token_ids=frozenset({END}))
CACHE = GrammarCache(TABLE)


def write(spec: GrammarSpec, seed: int, limit: int = 600) -> tuple[str, bool]:
    """Text drawn from random logits under a grammar, and whether it came to its end."""
    matcher = CACHE.compile(spec).matcher()
    generator = torch.Generator().manual_seed(seed)
    params, masks, tokens = SamplingParams(max_tokens=limit), MaskWorker(), []
    for index in range(limit):
        row = ScheduledRow(
            0, (0,), 0, (0,), (), params, True, seed, index, history=tokens, matcher=matcher
        )
        logits = torch.randn(1, PADDED_VOCABULARY, generator=generator) * 3
        draws = sample(logits, [row], masks.collect(masks.start([row])))
        assert not draws.failed
        assert not draws.exhausted
        token = draws.token_ids[0]
        if token == END:
            return TOKENIZER.decode(tokens), True
        tokens.append(token)
        if draws.completed:
            return TOKENIZER.decode(tokens), True
    return TOKENIZER.decode(tokens), False


def array_of(item: dict[str, Any], low: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": low, "maxItems": low + 1}


schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": -5, "maximum": 900},
            {"type": "string", "maxLength": 6},
            {"enum": ["rot", "grün", "青", 5, None]},
            {"const": {"a": [1, "ü"]}},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(array_of, inner, st.integers(0, 2)),
        st.dictionaries(st.sampled_from(["name", "größe", "k"]), inner, min_size=1).map(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields)[:1],
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None)
@given(schema=schemas, seed=st.integers(0, 2**31))
def test_random_logits_write_what_the_schema_allows(schema: dict[str, Any], seed: int) -> None:
    text, is_whole = write(GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(schema)), seed)
    if is_whole:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("kind", "text", "possible"),
    [
        (GrammarKind.LARK, 'start: "ja" | "nein"', {"ja", "nein"}),
        (GrammarKind.GBNF, 'root ::= "a" ("b" | "ü")', {"ab", "aü"}),
        (GrammarKind.REGEX, "[xy]{2}", {"xx", "xy", "yx", "yy"}),
    ],
)
def test_the_other_languages(kind: GrammarKind, text: str, possible: set[str]) -> None:
    written = [write(GrammarSpec(kind, text), seed) for seed in range(20)]
    assert all(is_whole for _, is_whole in written)
    assert {text for text, _ in written} <= possible
    assert len({text for text, _ in written}) > 1


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (GrammarKind.JSON_SCHEMA, '{"type": "strin"}', "strin"),
        (GrammarKind.JSON_SCHEMA, '{"uniqueItems": true}', "uniqueItems"),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "#/nowhere"}', "nowhere"),
        (GrammarKind.REGEX, "[a-", "character class"),
        (GrammarKind.LARK, "start: nothing", "nothing"),
        (GrammarKind.GBNF, "root ::= (", "guided_grammar"),
    ],
)
def test_what_can_not_be_enforced_is_refused_by_name(
    kind: GrammarKind, text: str, reason: str
) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        CACHE.compile(GrammarSpec(kind, text, "guided_grammar"))
    assert caught.value.param == "guided_grammar"


def test_grammars_are_compiled_once_and_matchers_are_their_own() -> None:
    spec = GrammarSpec(GrammarKind.LARK, 'start: "ab"')
    grammar = CACHE.compile(spec)
    assert CACHE.compile(GrammarSpec(GrammarKind.LARK, spec.text, "tools")) is grammar
    first, second = grammar.matcher(), grammar.matcher()
    for token in TOKENIZER.encode("ab"):
        first.accept(token)
    assert first.is_complete
    assert not second.is_complete


def test_contradictory_rules_end_the_answer() -> None:
    matcher = CACHE.compile(GrammarSpec(GrammarKind.LARK, 'start: "ab"')).matcher()
    params = SamplingParams(max_tokens=5, rules=LogitRules(allowed_token_ids=(END,)))
    row = ScheduledRow(0, (0,), 0, (0,), (), params, True, 1, 0, history=(1,), matcher=matcher)
    masks = {0: matcher.allowed()}
    draws = sample(torch.zeros(1, PADDED_VOCABULARY), [row], masks)
    assert draws.exhausted == {0}
    assert not draws.token_ids


def test_a_tokenizer_without_a_table_refuses_shapes() -> None:
    with pytest.raises(RequestError, match="can't be constrained"):
        GrammarCache(None).compile(GrammarSpec(GrammarKind.LARK, 'start: "a"'))


@given(text=st.text(max_size=30))
def test_token_bytes_spell_the_text(text: str) -> None:
    tokenizer = TransformersTokenizer(TOKENIZER, eos_token_ids=frozenset({END}), token_table=TABLE)
    tokens = tokenizer.encode(text)
    assert b"".join(tokenizer.token_bytes(token) for token in tokens) == text.encode()
    assert tokenizer.special_token_id("<end>") == END
    assert tokenizer.special_token_id("true") is None
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens]
    assert "".join([*pieces, stream.flush()]) == text
    assert np.all([len(piece) <= len(text) for piece in pieces])


class SlowGrammar:
    """Stands for llguidance's matcher; each mask takes `seconds` of the clock."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds

    def compute_bitmask(self) -> bytes:
        self.now += self.seconds
        return b"\xff"

    def is_error(self) -> bool:
        return False


@pytest.mark.parametrize(("seconds", "num_masks"), [(0.009, None), (0.07, 9), (0.3, 2), (5.0, 1)])
def test_computing_time_is_a_budget(seconds: float, num_masks: int | None) -> None:
    slow = SlowGrammar(seconds)
    matcher = GrammarMatcher(slow, clock=lambda: slow.now)
    for count in range(1, 200):
        matcher.allowed()
        if matcher.error:
            assert "too ambiguous" in matcher.error
            assert count == num_masks
            return
    assert num_masks is None


def test_a_compiled_grammar_is_kept_for_who_asked_for_it() -> None:
    def of(tenant: str) -> object:
        return CACHE.compile(GrammarSpec(GrammarKind.REGEX, "[ab]+c", tenant=tenant))

    assert of("one") is of("one")
    assert of("one") is not of("two"), "a grammar that comes at once tells that another uses it"
