#!/bin/sh
# Guess: quantizing what was dequantized gives the same again: 4-bit weights can be unpacked and
#   packed as often as one likes.
# What is: with plain scales yes, bit for bit. With double quantization (`compress_statistics`, the
#   default of QLoRA) the 4-bit codes stay, but the scales are rounded anew each time, and the
#   weights change at every round.
# Seen since: bitsandbytes 0.50.2 (earlier ones weren't tried)
# What to do: keep the quantized tensors and their state; never write a dequantized base back and
#   count on the same weights.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 bitsandbytes==0.50.2
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print("torch", torch.__version__, "bitsandbytes", bitsandbytes.__version__)
torch.manual_seed(0)
weight = torch.randn(256, 256)
for nested in (False, True):
    codes, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=nested, blocksize=64)
    values, changes = dequantize_4bit(codes, state), []
    for _ in range(4):
        next_codes, state = quantize_4bit(
            values, quant_type="nf4", compress_statistics=nested, blocksize=64)
        next_values = dequantize_4bit(next_codes, state)
        assert torch.equal(next_codes, codes)
        changes.append((next_values - values).abs().max().item())
        values = next_values
    print("double quantization" if nested else "plain scales", "changes of each round:", changes)
    assert all(changes) if nested else not any(changes)
PYTHON
