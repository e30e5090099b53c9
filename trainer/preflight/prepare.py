"""Everything that can be known before step 1."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import is_flash_attn_2_available

from adapters.base.loading import LoadedBase, default_compute_dtype, load_base
from adapters.base.modules import linear_modules
from adapters.base.training_guard import prepare_for_training
from trainer.batches.collator import pad_token_id
from trainer.batches.packed_attention import attend_row_by_row
from trainer.batches.packing import check_packing
from trainer.config import TrainerConfig
from trainer.config.loading import LoadedConfig
from trainer.data.labels import ConversationLabeller
from trainer.data.preparation import DataSource, PreparedData, prepare_data
from trainer.data.report import data_report
from trainer.errors import DataError
from trainer.evaluate.measuring import Measuring, measuring_for
from trainer.loop.plan import TrainingPlan, make_plan
from trainer.loop.trackers import require_tracker
from trainer.loop.training_arguments import choose_attention, choose_optimizer, resolve_device
from trainer.methods.quantization import quantization_for
from trainer.methods.targets import match_modules
from trainer.objectives.task import row_task
from trainer.tuning.biases import trained_biases

_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Preflight:
    """A run that is ready to begin: base loaded and guarded, data labelled, steps laid out.

    `measuring` is what `evaluation.metrics` asks for.
    """

    loaded: LoadedConfig
    base: LoadedBase
    labeller: ConversationLabeller
    data: PreparedData
    plan: TrainingPlan
    measuring: Measuring
    pad_id: int
    num_parameters: int
    num_modules: int

    @property
    def config(self) -> TrainerConfig:
        return self.loaded.config


def prepare_run(loaded: LoadedConfig, console: Console, num_processes: int = 1) -> Preflight:
    """Load the base, read and label the data, and say what was found and chosen.

    Raises `TrainerError` or `AdapterError` for everything that would make the run fail or its
    result useless.
    """
    config = loaded.config
    device = resolve_device(config.training.device)
    choose_optimizer(config.training.optimizer, device)
    require_tracker(config.training.logging.to)
    trains_base = config.training_method.trains_base
    dtype = _dtype(trains_base, config.training.compute_dtype) or default_compute_dtype(device)
    attention = choose_attention(
        config.training.attention, device, dtype, has_flash=is_flash_attn_2_available()
    )
    base = load_base(
        config.base, quantization_for(config), device=device, dtype=dtype, attention=attention
    )
    prepare_for_training(base.model)
    matched = match_modules(config, linear_modules(base.model))
    biases = trained_biases(base.model, config, matched)
    if config.data.packing:
        attend_row_by_row(base.model)
        packs_rows = config.training_method.packs_rows
        check_packing(base.model, config.method, packs_rows=packs_rows)
    labeller = ConversationLabeller(base.tokenizer, base.template.text)
    rows = row_task(config.objective)
    source = DataSource(config.data, loaded.folder, config.seed, num_positions(base.model.config))
    data = prepare_data(source, labeller, rows)
    measuring = measuring_for(config.evaluation, loaded.folder)
    if measuring.needs_answers and not any(e.conversation.prompt for e in data.held_out):
        raise DataError(
            f"evaluation.metrics: {', '.join(measuring.metrics)} need questions that can be "
            "answered, and the held-out rows are plain text; leave perplexity alone"
        )
    console.print(data_report(data, labeller))
    plan = make_plan(config, rows.planned(data.train), num_processes)
    ready = Preflight(
        loaded=loaded,
        base=base,
        labeller=labeller,
        data=data,
        plan=plan,
        measuring=measuring,
        pad_id=pad_token_id(base.tokenizer),
        num_parameters=config.training_method.count_in_model(config, matched, base.model)
        + sum(bias.numel() for bias in biases.values()),
        num_modules=len(matched),
    )
    console.print(_run_table(ready))
    return ready


def num_positions(model_config: Any) -> int | None:
    """How many tokens the base can take in a row, by its own config; None where it doesn't say."""
    found = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def _dtype(trains_base: bool, compute_dtype: str) -> torch.dtype | None:
    if trains_base:
        # Small updates are lost to rounding in bfloat16 weights.
        return torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return dtypes.get(compute_dtype)


def _run_table(ready: Preflight) -> Table:
    config, plan, base = ready.config, ready.plan, ready.base
    spec = base.quantization
    held = f"{spec.scheme}, double quantisation {'on' if spec.double_quant else 'off'}"
    model: Any = base.model
    size = ready.num_parameters * _BYTES[config.publish.dtype]
    table = Table(title="Run", title_justify="left", show_header=False)
    table.add_row(
        "adapter", f"{config.name} ({config.method}; {config.training_method.describe(config)})"
    )
    table.add_row("base", f"{config.base} ({held if spec.is_quantized else 'unquantised'})")
    table.add_row("compute", f"{model.dtype} on {model.device}".replace("torch.", ""))
    table.add_row("chat template", f"{base.template.hash[:23]}... (loss masks check out)")
    table.add_row("modules", f"{ready.num_modules} linear layers")
    table.add_row("trainable", f"{ready.num_parameters:,} parameters, {size / 1e6:.2f} MB")
    table.add_row(
        "steps",
        f"{plan.num_steps} ({len(plan.batches)} forwards of at most {plan.batch_tokens} tokens, "
        f"{plan.padding_share:.1%} padding)",
    )
    table.add_row("metrics", ", ".join(config.evaluation.metrics) or "held-out loss alone")
    table.add_row("gate", config.publish.gate)
    for note in plan.notes:
        table.add_row("chosen", note)
    return table
