"""A tiny random base model on disk, tokenizer included."""

from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers


def tiny_folder(path: Path, seed: int = 0) -> Path:
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=256,
        max_position_embeddings=64,
    )
    transformers.set_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    save_tokenizer(path)
    return path


def save_tokenizer(path: Path) -> None:
    vocabulary = {f"w{index}": index for index in range(256)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", eos_token="w2"
    ).save_pretrained(path)
