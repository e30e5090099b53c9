#!/bin/sh
# Guess: in a causal model a token's logits don't depend on the tokens after it; Doge's
#   `keep_window_size` picks among the tokens so far, with a cache as without.
# What is: in a whole forward longer than the window, with no attention mask given, the tokens to
#   keep are picked among later ones too: more text behind changes a token's logits by more than a
#   standard deviation, and a cached forward, which can't look ahead, gives others. No warning.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: don't train Doge or score texts with it beyond `keep_window_size` in one forward;
#   check a model's causality before trusting its whole forward as the reference.
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

config = transformers.DogeConfig(**sizes, num_hidden_layers=3, num_key_value_heads=2,
                                 keep_window_size=16)
model = tiny(config)
ids = torch.randint(5, 500, (1, 40))
whole = model(ids).logits
shorter = distances(whole[:, :30], model(ids[:, :30]).logits)
cached = distances(whole, fed(model, ids, [1] * 40))
for what, off in (("without the last 10 tokens", shorter), ("token by token", cached)):
    print(what, "off by", [f"{x:.0e}" for x in off.tolist()])
    assert off[:16].max() < 1e-4 < 0.1 < off[16:].max()
PYTHON
