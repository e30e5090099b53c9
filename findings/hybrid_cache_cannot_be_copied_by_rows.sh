#!/bin/sh
# Guess: `batch_repeat_interleave` of a cache repeats the states of every layer: one prompt, several
#   continuations.
# What is: it raises AttributeError on the caches of Qwen3.5, LFM2, Jamba, Zamba2 and the other
#   hybrids: their recurrent layers have no such method, though `reorder_cache` they do have. The
#   attention layers before them are then repeated already, so that the cache is of no more use.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: repeat the prompt's rows before the first forward, or reorder a cache that has the
#   rows already.
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

config = transformers.Lfm2Config(
    **sizes, num_hidden_layers=3, num_key_value_heads=2,
    layer_types=["full_attention", "conv", "conv"])
model = tiny(config)
cache = transformers.DynamicCache(config=config)
ids = torch.randint(5, 500, (1, 10))
model(ids, past_key_values=cache, use_cache=True)
try:
    cache.batch_repeat_interleave(2)
    failed = ""
except AttributeError as error:
    failed = str(error)
rows = cache.layers[0].keys.shape[0]
print("repeat:", failed or "done", "| rows of the attention layer now:", rows)
assert "batch_repeat_interleave" in failed and rows == 2
twice = transformers.DynamicCache(config=config)
model(ids.repeat(2, 1), past_key_values=twice, use_cache=True)
twice.reorder_cache(torch.tensor([1, 1]))
print("reorder_cache: done")
PYTHON
