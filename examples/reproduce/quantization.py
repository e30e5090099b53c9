"""Table 3: the base's own perplexity in bfloat16, NF4 and FP4, with double quantisation or not.

python examples/reproduce/quantization.py
"""

import math
from pathlib import Path

from experiment import CONFIG, RESULTS

SPECS = (
    ("none", False), ("nf4", True), ("nf4", False), ("fp4", True), ("fp4", False),
)  # fmt: skip
BATCH_TOKENS = 1024


def main() -> None:
    from adapters.base.host_memory import save_host_memory
    from trainer.config.loading import load_config
    from trainer.quiet import quiet_libraries

    save_host_memory()
    quiet_libraries()
    from adapters.base.loading import load_base
    from adapters.base.quantization import QuantizationSpec
    from adapters.base.training_guard import prepare_for_training
    from trainer.batches.collator import pad_token_id
    from trainer.data.labels import ConversationLabeller
    from trainer.data.preparation import DataSource, prepare_data
    from trainer.loop.held_out_loss import held_out_loss
    from trainer.methods.model_shape import shape_of
    from trainer.prediction.memory import linear_4bit_bytes

    loaded = load_config(CONFIG)
    rows = None
    measured = []
    for scheme, double in SPECS:
        spec = QuantizationSpec(scheme, double_quant=double)
        base = load_base(loaded.config.base, spec)
        prepare_for_training(base.model)
        if rows is None:
            labeller = ConversationLabeller(base.tokenizer, base.template.text)
            config = loaded.config
            source = DataSource(config.data, loaded.folder, config.seed)
            rows = list(prepare_data(source, labeller).held_out.rows)
        pad_id = pad_token_id(base.tokenizer)
        loss = held_out_loss(base.model, rows, batch_tokens=BATCH_TOKENS, pad_id=pad_id).mean
        shape = shape_of("base", base.model.config)
        whole = 2 * shape.linear_parameters
        share = linear_4bit_bytes(shape, spec) / whole if spec.is_quantized else 1.0
        name = "bfloat16" if scheme == "none" else f"{scheme}{', double' if double else ''}"
        measured.append((name, loss, share))
    _write(measured, RESULTS)


def _write(measured: list[tuple[str, float, float]], folder: Path) -> None:
    reference = measured[0][1]
    lines = [
        "# NF4 against FP4, by the base's own perplexity",
        "",
        "`python examples/reproduce/quantization.py`: the base alone on the held-out answers of",
        "`examples/polite` (rows up to 128 tokens). Bytes are those of the linear weights with "
        "their scales.",
        "",
        "| linears held as | held-out loss | against bfloat16 | perplexity | bytes of bfloat16's |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {loss:.4f} | {loss / reference - 1:+.1%} | {math.exp(loss):.2f} | "
        f"{share:.3f} |"
        for name, loss, share in measured
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*lines, "", "![perplexity](quantization.png)", ""])
    (folder / "quantization.md").write_text(text, encoding="utf-8")
    from chart import draw_bars

    draw_bars(
        [name for name, _, _ in measured],
        [math.exp(loss) for _, loss, _ in measured],
        folder / "quantization.png",
        title="Perplexity of the base on held-out answers",
    )


if __name__ == "__main__":
    main()
