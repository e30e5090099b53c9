#!/bin/sh
# Guess: the same tensors and the same metadata make the same file, so a file's hash tells whether
#   an adapter changed; and keys come back in the order given.
# What is: with two or more metadata entries the order of these in the header is drawn anew at each
#   save: equal content, other bytes. Without metadata the bytes are equal. Keys come back sorted by
#   name.
# Seen since: safetensors 0.8.0 (earlier ones weren't tried)
# What to do: hash the tensors and the metadata, not the file.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import hashlib

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load, save, save_file

print("torch", torch.__version__, "safetensors", safetensors.__version__)
tensors = {"b": torch.zeros(2), "a": torch.ones(3, dtype=torch.bfloat16)}
metadata = {f"key{i}": str(i) for i in range(8)}
files = [save(tensors, metadata) for _ in range(8)]
bare = [save(tensors) for _ in range(8)]

def hashes(contents):
    return len({hashlib.sha256(content).hexdigest() for content in contents})

print("different files of 8 saves: with metadata", hashes(files), "without", hashes(bare))
assert all(torch.equal(load(file)["a"], tensors["a"]) for file in files)
assert hashes(files) > 1 and hashes(bare) == 1
save_file(tensors, "x.safetensors")
with safe_open("x.safetensors", "pt") as file:
    keys = list(file.keys())
print("given", list(tensors), "keys", keys)
assert keys == ["a", "b"]
PYTHON
