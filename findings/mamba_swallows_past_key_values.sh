#!/bin/sh
# Guess: Mamba calls its state `cache_params`; handing it on as `past_key_values`, as all hybrid
#   models of the same library want, is a TypeError.
# What is: the argument is swallowed, and the step is computed as if the token were the first of a
#   text.
# Seen since: transformers 5.23.0 (earlier ones weren't tried)
# What to do: look at a model's signature for the name of its state; check a step against the whole
#   forward.
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

config = transformers.MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=3, state_size=8)
model = tiny(config)
ids = torch.randint(5, 500, (1, 21))
state = model(ids[:, :20], use_cache=True).cache_params
right = model(ids[:, 20:], cache_params=state).logits
state = model(ids[:, :20], use_cache=True).cache_params
other_name = model(ids[:, 20:], past_key_values=state).logits
first = model(ids[:, 20:]).logits
print("off from the right step:", ((other_name - right).abs().max() / right.std()).item())
print("off from a step with no state:", (other_name - first).abs().max().item())
assert torch.equal(other_name, first)
assert (other_name - right).abs().max() > 0.1 * right.std()
PYTHON
