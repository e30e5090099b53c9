#!/bin/sh
# Guess: packing makes rows of max_length out of all tokens: nothing is lost.
# What is: the default strategy, bfd, first cuts each sample to max_length and drops the rest with
#   no warning; only bfd_split and wrapped keep every token. And with assistant_only_loss a row
#   whose answer lies past the cut vanishes from the data set.
# Seen since: TRL 1.16.0 (earlier ones weren't tried)
# What to do: set packing_strategy="bfd_split", or max_length above the longest sample; count the
#   tokens before and after.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

print("torch", torch.__version__, "transformers", transformers.__version__, "trl", trl.__version__)
disable_progress_bars()
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
bytes_alone = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<e>", pad_token="<p>")
tokenizer.chat_template = (
    "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<e>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}")
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    num_attention_heads=2))

def rows_of(conversations, **options):
    settings = SFTConfig(output_dir="out", report_to="none", use_cpu=True, bf16=False,
                         max_length=64, **options)
    data = Dataset.from_list([
        {"messages": [{"role": "user", "content": question},
                      {"role": "assistant", "content": answer}]}
        for question, answer in conversations])
    trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer)
    return [len(ids) for ids in trainer.train_dataset["input_ids"]]

conversations = [("q", "a" * length) for length in (5, 30, 200)]
whole = sum(
    len(tokenizer.apply_chat_template(
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}])["input_ids"])
    for q, a in conversations)
kept = {"default": sum(rows_of(conversations, packing=True))}
for strategy in ("bfd", "bfd_split", "wrapped"):
    kept[strategy] = sum(rows_of(conversations, packing=True, packing_strategy=strategy))
print("tokens", whole, "kept by packing:", kept)
assert kept["bfd_split"] == kept["wrapped"] == whole
assert kept["default"] == kept["bfd"] < whole
late = [("q" * 200, "a"), ("q", "a")]
left = rows_of(late, assistant_only_loss=True)
print("rows", len(late), "left with assistant_only_loss:", len(left))
assert len(left) == 1
PYTHON
