#!/bin/sh
# Guess: given a cache and no position_ids, a model counts its positions on from the cache, as Llama
#   does.
# What is: Bamba counts from 0 in every call: each new token is rotated as the text's first.
#   `generate` passes the positions itself, so only those who call the model see it. Llama with the
#   same calls is right.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: always pass position_ids.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.set_grad_enabled(False)

def tiny(config):
    """A random model whose weights are large enough for differences to show."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return model
sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}

layers = {"num_hidden_layers": 4, "num_key_value_heads": 2}
bamba = transformers.BambaConfig(**sizes, **layers, attn_layer_indices=[1, 3], mamba_n_heads=8,
                                 mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16,
                                 mamba_chunk_size=16)
off = {}
for config in (transformers.LlamaConfig(**sizes, **layers), bamba):
    model = tiny(config)
    ids = torch.randint(5, 500, (1, 24))
    whole = model(ids).logits
    for says_positions in (False, True):
        cache, steps = transformers.DynamicCache(config=config), []
        for i in range(24):
            positions = torch.tensor([[i]]) if says_positions else None
            steps.append(model(ids[:, i : i + 1], past_key_values=cache, use_cache=True,
                               position_ids=positions).logits)
        error = ((torch.cat(steps, 1) - whole).abs().max() / whole.std()).item()
        off[config.model_type, says_positions] = error
        print(f"{config.model_type}, position_ids passed: {says_positions}: off by {error:.1e}")
assert off.pop(("bamba", False)) > 0.05
assert max(off.values()) < 1e-4
PYTHON
