#!/bin/sh
# Guess: under a JSON schema llguidance lets a model write every spelling that JSON has for a valid
#   value, and takes a format that it doesn't know as a note, as the standard says.
# What is: an unknown format is an error; in strings \u escapes aren't allowed (only \n and its
#   like), nor a bare DEL; a bound on a number forbids exponents and -0, which without a bound are
#   allowed; 1.0 is refused for an integer and for enum [1].
# Seen since: llguidance 1.9.1 (earlier ones weren't tried)
# What to do: check schemas from users for formats first; never force a recorded answer through a
#   grammar and count on it to pass: write it anew with json.dumps(ensure_ascii=False).
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 llguidance==1.9.1
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

print("llguidance", importlib.metadata.version("llguidance"))

class Bytes:
    eos_token_id, bos_token_id = 256, None
    tokens = [bytes([i]) for i in range(256)] + [b"\xff<eos>"]
    special_token_ids = [256]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())

tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))

def verdict(schema, text):
    try:
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
        error = matcher.get_error()
    except ValueError as refusal:
        error = str(refusal)
    if error:
        return error.strip()
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()

number, bounded = {"type": "number"}, {"type": "number", "minimum": -5, "maximum": 10}
cases = [
    ({"type": "string"}, '"é"', True),
    ({"type": "string"}, r'"\u00e9"', False),
    ({"const": "é"}, r'"\u00e9"', False),
    ({"type": "string"}, r'"\n"', True),
    ({"type": "string"}, '"\x7f"', False),
    (number, "1e1", True),
    (bounded, "1e1", False),
    (number, "-0", True),
    ({"type": "number", "minimum": 0}, "-0", False),
    ({"type": "integer"}, "1.0", False),
    ({"enum": [1]}, "1.0", False),
]
for schema, text, expected in cases:
    got = verdict(schema, text)
    print(schema, ascii(text), "->", got)
    assert got is expected
got = verdict({"type": "string", "format": "iban"}, '"x"')
print("format iban ->", got)
assert "format" in str(got).lower()
PYTHON
