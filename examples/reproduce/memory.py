"""Table 2: memory of LoRA and QLoRA, measured here and predicted from shapes for 7B, 13B and 65B.

    python examples/reproduce/memory.py              the tables of what was measured so far
    python examples/reproduce/memory.py --measure    measure what is missing first (minutes)

What a run measures stands beside its own prediction at the end of every `trainer run`.
"""

import json
import sys
from dataclasses import asdict

from experiment import CONFIG, RECORDS, RESULTS
from memory_run import MemoryRun, measure

CASES = (
    ("--method qlora --training.batch_tokens 512 --lora.dropout 0", 1),
    ("--method qlora --training.batch_tokens 1024 --lora.dropout 0", 1),
    ("--method qlora --training.batch_tokens 1024", 4),
    ("--method lora --training.batch_tokens 512 --lora.dropout 0", 1),
    ("--method lora --training.batch_tokens 1024 --lora.dropout 0", 1),
    ("--method full --training.batch_tokens 512", 1),
    ("--method full --training.batch_tokens 1024", 1),
)
"""Overrides, and turns of a conversation: 90 tokens each. Dropout is 0.05 where it isn't said."""

TUTORIAL = {"llama-7b": ("24", "12"), "llama-13b": ("45", "22"), "llama-65b": ("", "46")}
"""GB of LoRA and QLoRA in the tutorial that these tables follow."""

TOKENS = 512
"""One row of the usual length: the tutorial names no batch, and its figures leave room for no
larger one."""


def measured_table() -> list[str]:
    """The lines of the table of what ran here; with `--measure` the missing cases run first."""
    lines = [
        "## Measured on the embedded model",
        "",
        "`python examples/reproduce/memory.py --measure`: three steps of SmolLM2-135M on a CPU,"
        "the most that was",
        "resident while training beside what `trainer check` says before it.",
        "",
        "| run | turns | predicted GB | measured GB | predicted is |",
        "|---|---|---|---|---|",
    ]
    for overrides, turns in CASES:
        name = overrides.replace("--", "").replace("training.", "").replace("lora.", "")
        file = RECORDS / "memory" / f"{name.replace(' ', '-')}-{turns}.json"
        if "--measure" in sys.argv and not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(measure(overrides.split(), turns))))
        if not file.is_file():
            lines.append(f"| {name} | {turns} | not run yet | | |")
            continue
        run = MemoryRun(**json.loads(file.read_text()))
        lines.append(
            f"| {name} | {turns} | {run.predicted / 1e9:.2f} | {run.measured / 1e9:.2f} | "
            f"{run.predicted / run.measured - 1:+.0%} |"
        )
    return [*lines, ""]


def main() -> None:
    from trainer.config_loading import load_config
    from trainer.methods.quantization import quantization_for
    from trainer.prediction.memory import BatchSizes, predict_memory
    from trainer.prediction.model_shape import named_shape

    lines = [
        "# Memory of LoRA and QLoRA, predicted",
        "",
        f"`python examples/reproduce/memory.py`: rank 16, all linears, {TOKENS} tokens a forward, "
        "all of them",
        "with loss, gradient checkpointing and a paged 8-bit optimiser, bfloat16. Nothing here was "
        "run: these are",
        "counts by shape (`trainer check --model-shape`), without the CUDA context and the "
        "allocator's holes.",
        "",
        "| model | LoRA: weights | LoRA: in all | tutorial | QLoRA: weights | QLoRA: in all | "
        "tutorial |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (lora_said, qlora_said) in TUTORIAL.items():
        shape = named_shape(name)
        cells = []
        for method, said in (("lora", lora_said), ("qlora", qlora_said)):
            config = load_config(
                CONFIG, ["--method", method, "--training.gradient_checkpointing", "true"]
            ).config
            predicted = predict_memory(
                config,
                shape,
                quantization_for(config),
                BatchSizes(TOKENS, TOKENS, 0, 0),
                element_bytes=2,
                optimizer="paged_adamw_8bit",
            )
            cells += [f"{predicted.weights / 1e9:.1f}", f"{predicted.total / 1e9:.1f}", said or "-"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "GB = 1e9 bytes. Where the tutorial says more, it is the batch (longer rows, several of "
        "them, no",
        "checkpointing), the CUDA context of 0.5 to 1 GB, and the allocator; QLoRA saves that of "
        "the",
        "weights alone, and shrinks in proportion as activations grow.",
        "",
        *measured_table(),
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "memory.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
