"""A Llama folder with random weights: speed and memory don't ask what the numbers mean."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapters.base.loading import load_tokenizer
from adapters.base.reference import DEFAULT_BASE, resolve_base

_STANDARD_DEVIATION = 0.02
_RECORD = "random_llama.json"


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """The defaults are those of a model of 1 billion parameters. The head is the embedding's."""

    num_layers: int = 16
    hidden: int = 2048
    intermediate: int = 8192
    num_heads: int = 32
    num_kv_heads: int = 8
    window: int = 2048


def build_random_llama(folder: Path, sizes: LlamaSizes, *, seed: int = 0) -> int:
    """Write the model in bfloat16 with the embedded base's tokenizer; returns its parameters.

    A folder that is whole and of these sizes is left as it is; anything else there is replaced.
    """
    record = folder / _RECORD
    if record.is_file():
        kept = json.loads(record.read_text())
        if kept["sizes"] == asdict(sizes) and kept["seed"] == seed:
            return int(kept["num_parameters"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer, _ = load_tokenizer(resolve_base(DEFAULT_BASE))
    tokenizer.save_pretrained(str(folder))
    tensors = _write_config(folder, sizes, len(tokenizer), tokenizer.eos_token_id)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _random_tensor(shape, generator) for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    num_parameters = sum(weight.numel() for weight in weights.values())
    record.write_text(
        json.dumps({"sizes": asdict(sizes), "seed": seed, "num_parameters": num_parameters})
    )
    return num_parameters


def _write_config(
    folder: Path, sizes: LlamaSizes, vocabulary: int, eos_token_id: int
) -> dict[str, torch.Size]:
    """Writes config.json; returns the shape of every tensor that the model stores."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        max_position_embeddings=sizes.window,
        eos_token_id=eos_token_id,
        tie_word_embeddings=True,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = torch.bfloat16
    config.save_pretrained(str(folder))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _random_tensor(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Norm weights are ones."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    values = torch.empty(shape, dtype=torch.bfloat16)
    return values.normal_(0.0, _STANDARD_DEVIATION, generator=generator)
