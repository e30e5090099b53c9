#!/bin/sh
# Guess: each text has a cache object, so two texts can take turns on one model.
# What is: RecurrentGemma keeps its recurrent and convolution states in its modules. A cache holds
#   only the attention layers' part, and the second text's prompt replaces the first one's states:
#   the first goes on wrongly, with no warning.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: run one batch at a time on such a model, to its end; or copy the modules' states out
#   and in.
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

config = transformers.RecurrentGemmaConfig(
    **sizes, num_hidden_layers=3, num_key_value_heads=2, lru_width=64, attention_window_size=8)
model = tiny(config)
ids = torch.randint(5, 500, (2, 21), generator=torch.Generator().manual_seed(1))

def feed(row, start, stop, cache):
    positions = torch.arange(start, stop)[None]
    return model(ids[row : row + 1, start:stop], past_key_values=cache, use_cache=True,
                 position_ids=positions).logits

whole = model(ids[:1]).logits
cache = transformers.DynamicCache(config=config)
feed(0, 0, 20, cache)
alone = feed(0, 20, 21, cache)
one, other = (transformers.DynamicCache(config=config) for _ in range(2))
feed(0, 0, 20, one)
feed(1, 0, 20, other)
in_turns = feed(0, 20, 21, one)
off_alone, off_in_turns = (
    ((step[0, -1] - whole[0, 20]).abs().max() / whole.std()).item() for step in (alone, in_turns))
print(f"alone off by {off_alone:.1e}, after another text's prompt off by {off_in_turns:.1e}")
assert off_alone < 1e-4 < 0.01 < off_in_turns
PYTHON
