#!/bin/sh
# Guess: a number that llguidance lets a model write under multipleOf 0.01 is valid under that
#   schema for every validator.
# What is: llguidance counts in decimals, and so does jsonschema_rs; Python's jsonschema divides
#   binary floats and refuses 19.99 (and 0.3 under 0.1). Right answers fail validation.
# Seen since: llguidance 1.9.1, jsonschema 4.26.0, jsonschema_rs 0.60.3 (earlier ones weren't tried)
# What to do: validate with jsonschema_rs; or parse with parse_float=decimal.Decimal on both sides,
#   which jsonschema takes.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 llguidance==1.9.1 jsonschema==4.26.0 jsonschema_rs==0.60.3
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
from decimal import Decimal

import jsonschema
import jsonschema_rs
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

for name in ("llguidance", "jsonschema", "jsonschema_rs"):
    print(name, importlib.metadata.version(name))

class Bytes:
    eos_token_id, bos_token_id = 256, None
    tokens = [bytes([i]) for i in range(256)] + [b"\xff<eos>"]
    special_token_ids = [256]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())

tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))

def written(schema, text):
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema))
    assert not matcher.get_error(), matcher.get_error()
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()

for step, text in (("0.01", "19.99"), ("0.1", "0.3")):
    document = json.dumps({"type": "number"})[:-1] + f', "multipleOf": {step}' + "}"
    schema = json.loads(document)
    seen = {
        "llguidance writes it": written(schema, text),
        "jsonschema_rs": jsonschema_rs.is_valid(schema, json.loads(text)),
        "jsonschema": jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)),
        "jsonschema with decimals": jsonschema.Draft202012Validator(
            json.loads(document, parse_float=Decimal)).is_valid(Decimal(text)),
    }
    print(f"multipleOf {step}, {text}:", seen)
    assert list(seen.values()) == [True, True, False, True]
PYTHON
