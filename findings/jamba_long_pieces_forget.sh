#!/bin/sh
# Guess: a hybrid model with a cache takes a text in pieces of any length.
# What is: Jamba reads its recurrent state only when a piece is one token long. Each longer piece
#   starts from an empty state, with no warning, though the attention layers do see the tokens
#   before. Qwen3.5 and LFM2 in the same library do it right.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: give Jamba its prompt whole and then one token at a time; no prefill in chunks, no
#   prefix reuse with more than one token left, no speculation.
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

def fed(model, ids, pieces):
    """The logits with one cache, `pieces` tokens at a time."""
    cache, logits, start = transformers.DynamicCache(config=model.config), [], 0
    for length in pieces:
        answer = model(ids[:, start : start + length], past_key_values=cache, use_cache=True)
        logits.append(answer.logits)
        start += length
    return torch.cat(logits, 1)

def distances(one, other):
    """The largest difference of each position, in standard deviations of the logits."""
    return ((one - other).abs().amax(-1) / one.std())[0]
sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}

config = transformers.JambaConfig(
    **sizes, num_hidden_layers=4, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1,
    expert_layer_period=2, expert_layer_offset=1, num_experts=4, num_experts_per_tok=2,
    mamba_d_state=8)
model = tiny(config)
ids = torch.randint(5, 500, (1, 28))
whole = model(ids).logits
ones = distances(whole, fed(model, ids, [1] * 28)).max().item()
sevens = distances(whole, fed(model, ids, [7] * 4))
print(f"in ones off by {ones:.1e}; in sevens off by", [f"{x:.1e}" for x in sevens.tolist()])
assert ones < 1e-4 and sevens[:7].max() < 1e-4 < 0.05 < sevens[7:].max()
PYTHON
