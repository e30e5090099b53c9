#!/bin/sh
# Guess: "all-linear" means the same for every mixture of experts: attention and the experts, and a
#   model that it wrapped runs.
# What is: on Qwen3-MoE it wraps the fused experts and the router too; on gpt-oss attention alone;
#   on Llama 4 and Phi-MoE it wraps a router that is a linear layer by class but returns a tuple,
#   and the first forward raises AttributeError ('tuple' object has no attribute 'dtype').
# Seen since: PEFT 0.21.2 with transformers 5.23.0 (earlier ones weren't tried)
# What to do: name the modules; use exclude_modules for routers; run a forward after wrapping.
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
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model

print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 4, "num_key_value_heads": 4}
configs = {
    "qwen3_moe": transformers.Qwen3MoeConfig(**sizes, head_dim=8, moe_intermediate_size=16,
                                             num_experts=4, num_experts_per_tok=2),
    "gpt_oss": transformers.GptOssConfig(**sizes, head_dim=8, num_local_experts=4,
                                         num_experts_per_tok=2),
    "llama4": transformers.Llama4TextConfig(
        **sizes, head_dim=8, intermediate_size_mlp=64, num_local_experts=4, num_experts_per_tok=1,
        interleave_moe_layer_step=1),
    "phimoe": transformers.PhimoeConfig(**sizes, num_local_experts=4, num_experts_per_tok=2),
}
seen = {}
for name, config in configs.items():
    model = get_peft_model(transformers.AutoModelForCausalLM.from_config(config),
                           LoraConfig(target_modules="all-linear"))
    parts = [*model.targeted_module_names, *model.targeted_parameter_names]
    try:
        model(torch.arange(8)[None])
        end = "runs"
    except AttributeError as error:
        end = str(error)
    seen[name] = ([part.partition("layers.0.")[2] for part in parts], end)
    print(name, *seen[name])
experts = {name: any("experts." in part for part in parts) for name, (parts, _) in seen.items()}
assert experts["qwen3_moe"] and "mlp.gate.weight" in seen["qwen3_moe"][0]
assert not experts["gpt_oss"] and seen["gpt_oss"][1] == seen["qwen3_moe"][1] == "runs"
for name in ("llama4", "phimoe"):
    assert any(part.endswith("router") for part in seen[name][0])
    assert "'tuple' object has no attribute 'dtype'" in seen[name][1]
PYTHON
