#!/bin/sh
# Guess: MXFP4 is a standard format: a gpt-oss checkpoint's blocks and scales, laid together, are
#   GGUF's MXFP4 blocks.
# What is: both hold one scale byte and 16 bytes for 32 values, and the values' bits are the same,
#   but the order isn't: gpt-oss has values 2i and 2i+1 in byte i, GGUF has i and i+16. Bytes copied
#   over decode to a permuted block with no error.
# Seen since: gguf 0.19.0 with transformers 5.23.0 (earlier ones weren't tried)
# What to do: repack the nibbles when going from one to the other; compare decoded values, not
#   sizes.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata

import gguf
import numpy
import torch
import transformers
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

print("torch", torch.__version__, "transformers", transformers.__version__,
      "gguf", importlib.metadata.version("gguf"))
torch.manual_seed(0)
blocks = torch.randint(0, 256, (1, 1, 1, 16), dtype=torch.uint8)
scales = torch.full((1, 1, 1), 127, dtype=torch.uint8)
ours = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).flatten().numpy()

def as_gguf(nibble_bytes):
    raw = numpy.concatenate([[127], nibble_bytes]).astype(numpy.uint8)[None]
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.MXFP4)[0]

packed = blocks.flatten().numpy()
copied = as_gguf(packed)
nibbles = numpy.stack([packed & 15, packed >> 4], 1).flatten()
repacked = as_gguf(nibbles[:16] | nibbles[16:] << 4)
print("gpt-oss ", ours.tolist())
print("copied  ", copied.tolist())
print("repacked", repacked.tolist())
assert not numpy.array_equal(ours, copied)
assert numpy.array_equal(ours, copied.reshape(2, 16).T.flatten())
assert numpy.array_equal(ours, repacked)
PYTHON
