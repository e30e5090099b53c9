#!/bin/sh
# Guess: target_modules of gate_proj, up_proj and down_proj train the linear layers of these names;
#   the fused routed experts, which are no linear layers, stay as they are.
# What is: for model types that PEFT knows the old layout of, it rewrites the config: target_modules
#   loses the names, target_parameters gains the fused tensors, and gate_up_proj gets twice the rank
#   and twice the alpha. The routed experts train, the shared expert that has layers of these very
#   names doesn't.
# Seen since: PEFT 0.21.2 with transformers 5.23.0 (earlier ones weren't tried)
# What to do: name the shared experts by a regular expression; after wrapping look at what trains.
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
from peft import LoraConfig, get_peft_model

print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
config = transformers.DeepseekV2Config(
    vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=4, topk_method="greedy", n_group=1, topk_group=1,
    q_lora_rank=32, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16,
    n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=64,
    first_k_dense_replace=0)
base = transformers.AutoModelForCausalLM.from_config(config)
linear = [n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and "_proj" in n
          and n.split(".")[-1] in ("gate_proj", "up_proj", "down_proj")]
print("linear layers of these names:", linear)
model = get_peft_model(
    base, LoraConfig(r=4, lora_alpha=8, target_modules=["gate_proj", "up_proj", "down_proj"]))
model.save_pretrained(".")
saved = json.load(open("adapter_config.json"))
shown = {key: saved[key] for key in
         ("r", "target_modules", "target_parameters", "rank_pattern", "alpha_pattern")}
trained = [name for name, p in model.named_parameters() if p.requires_grad]
print(json.dumps(shown), *trained, sep="\n")
assert len(linear) == 3 and all("shared_experts" in name for name in linear)
assert not any("shared_experts" in name for name in trained) and trained
assert sorted(saved["target_parameters"]) == ["down_proj", "gate_up_proj"]
assert list(saved["rank_pattern"].values()) == [8] and list(saved["alpha_pattern"].values()) == [16]
PYTHON
