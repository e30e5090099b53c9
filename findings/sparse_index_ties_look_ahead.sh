#!/bin/sh
# Guess: in DeepSeek-V3.2 a token's logits don't depend on the tokens after it, nor on whether a
#   cache is used.
# What is: beyond `index_topk` tokens both hold only while the index scores differ. They go through
#   a ReLU, so with few index heads many are exactly 0, and which of the equal ones topk takes
#   depends on the length: more text behind, or a cache, changes the logits of a token by a standard
#   deviation. With the released number of heads, 64, no scores tie here and all agrees.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: test sparse attention with 64 index heads: a tiny configuration with 2 seems to have a
#   broken cache, and hasn't.
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

for heads in (2, 64):
    config = transformers.DeepseekV32Config(
        **sizes, num_hidden_layers=3, num_key_value_heads=4, n_group=1, topk_group=1, index_topk=8,
        index_head_dim=32, index_n_heads=heads, q_lora_rank=32, kv_lora_rank=16,
        qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16, n_routed_experts=4,
        n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=64,
        first_k_dense_replace=1)
    model = tiny(config)
    ids = torch.randint(5, 500, (1, 48))
    whole = model(ids).logits
    shorter = distances(whole[:, :40], model(ids[:, :40]).logits)
    cached = distances(whole, fed(model, ids, [1] * 48))
    for what, off in (("without the last 8 tokens", shorter), ("token by token", cached)):
        print(heads, "index heads,", what, "off by", [f"{x:.0e}" for x in off.tolist()])
        assert off[:8].max() < 1e-4
        assert (off.max() > 0.05) == (heads == 2)
PYTHON
