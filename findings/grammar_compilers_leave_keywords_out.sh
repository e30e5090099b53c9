#!/bin/sh
# Guess: a compiler of JSON schemas to grammars refuses a keyword that it can't hold.
# What is: some are left out with no word. xgrammar: maxLength beside pattern, multipleOf,
#   uniqueItems, what stands beside anyOf or $ref. outlines_core: minimum, multipleOf, uniqueItems.
#   Both: a name in required that properties doesn't list.
# Seen since: xgrammar 0.2.9, outlines_core 0.2.14 (earlier ones weren't tried)
# What to do: validate each answer against its schema whatever grammar wrote it.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 xgrammar==0.2.9 outlines_core==0.2.14 jsonschema==4.26.0
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
import re

import jsonschema
import xgrammar
from outlines_core.json_schema import build_regex_from_schema

for name in ("xgrammar", "outlines_core"):
    print(name, importlib.metadata.version(name))
vocabulary = [bytes([i]) for i in range(256)] + [b"</s>"]
compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(
    vocabulary, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[256]))

def in_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)

def in_outlines(schema, text):
    return re.fullmatch(build_regex_from_schema(json.dumps(schema)), text) is not None

integer = {"type": "integer"}
cases = [
    ({"type": "string", "pattern": "^a+$", "maxLength": 2}, '"aaa"', True, False),
    ({"type": "integer", "minimum": 5}, "1", False, True),
    ({"type": "number", "multipleOf": 0.5}, "0.3", True, True),
    ({"type": "array", "items": {}, "uniqueItems": True}, "[1, 1]", True, True),
    ({"type": "object", "properties": {"a": integer}, "required": ["a", "b"]}, '{"a": 1}',
     True, True),
    ({"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": integer}}, "1", True, True),
]
for schema, text, xgrammar_takes, outlines_takes in cases:
    assert not jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    got = in_xgrammar(schema, text), in_outlines(schema, text)
    print(json.dumps(schema), text, "invalid; xgrammar takes it:", got[0], "outlines_core:", got[1])
    assert got == (xgrammar_takes, outlines_takes)
PYTHON
