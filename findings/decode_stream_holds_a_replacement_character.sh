#!/bin/sh
# Guess: DecodeStream gives out a text whole: the pieces joined are the text.
# What is: it holds back whatever ends in U+FFFD, as it might be half a character. A text that
#   really ends in U+FFFD (a model may well write it: its own bytes are valid UTF-8) is never given
#   out to its end, and there is no call to flush it.
# Seen since: tokenizers 0.23.3 (earlier ones weren't tried)
# What to do: at the end of a text decode all its tokens and add what the stream kept.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet tokenizers==0.23.3
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

print("tokenizers", tokenizers.__version__)
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
for text in ("a€", "a\ufffdb", "a\ufffd"):
    ids = tokenizer.encode(text).ids
    stream = DecodeStream(skip_special_tokens=False)
    pieces = [stream.step(tokenizer, token) for token in ids]
    joined = "".join(piece or "" for piece in pieces)
    print(ascii(text), "pieces", ascii(pieces), "whole decode", ascii(tokenizer.decode(ids)))
    assert tokenizer.decode(ids) == text
    assert joined == ("a" if text.endswith("\ufffd") else text)
assert not hasattr(stream, "flush")
PYTHON
