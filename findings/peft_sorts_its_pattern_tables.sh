#!/bin/sh
# Guess: rank_pattern and alpha_pattern mean after a reload what they meant in training.
# What is: of two patterns that match a module the first counts, and save_pretrained writes the
#   tables sorted by name. An adapter whose tables overlap can come back with another alpha (no word
#   said: the same tensors, another scale) or other ranks (a size mismatch on load).
# Seen since: PEFT 0.21.2 with transformers 5.23.0 (earlier ones weren't tried)
# What to do: write patterns that don't overlap, or in sorted order.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import json

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
config = transformers.LlamaConfig(
    vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4)

def base():
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()

def scales(model):
    layers = model.base_model.model.model.layers
    return [layer.self_attn.q_proj.scaling["default"] for layer in layers]

table = {"q_proj": 8, r"layers\.0\.self_attn\.q_proj": 32}
model = get_peft_model(base(), LoraConfig(
    r=8, lora_alpha=8, init_lora_weights=False, target_modules=["q_proj"], alpha_pattern=table))
model.eval().save_pretrained("alpha")
back = PeftModel.from_pretrained(base(), "alpha").eval()
ids = torch.arange(16)[None]
apart = (model(ids).logits - back(ids).logits).abs().max().item()
print("given", list(table), "saved", list(json.load(open("alpha/adapter_config.json"))["alpha_pattern"]))
print("scales", scales(model), "after a reload", scales(back), "logits apart by", apart)
assert scales(model) == [1.0, 1.0] and scales(back) == [4.0, 1.0] and apart > 1e-3

model = get_peft_model(base(), LoraConfig(r=8, target_modules=["q_proj"], rank_pattern=table))
model.save_pretrained("rank")
try:
    PeftModel.from_pretrained(base(), "rank")
    failed = ""
except RuntimeError as error:
    failed = str(error)
print("ranks:", failed[:200])
assert "size mismatch" in failed
PYTHON
