"""One training run over labelled rows, from a fresh adapter to its best weights."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PrinterCallback
from transformers.integrations import TensorBoardCallback

from trainer.adapter_trainer import AdapterTrainer
from trainer.callbacks import BestKeeper, Recorder
from trainer.config import TrainerConfig
from trainer.history import History
from trainer.labels import LabelledRow
from trainer.methods.tuning import Tuning
from trainer.plan import TrainingPlan
from trainer.progress import ProgressView
from trainer.run_folder import RunFolder
from trainer.training_arguments import training_arguments


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """How the run ended. `best_step` is the step whose weights the model now has."""

    best_step: int
    num_steps: int
    num_tokens: int
    seconds: float


def train_adapter(
    tuning: Tuning,
    *,
    config: TrainerConfig,
    plan: TrainingPlan,
    rows: Sequence[LabelledRow],
    held_out: Sequence[LabelledRow],
    pad_id: int,
    folder: RunFolder,
    history: History,
    view: ProgressView,
) -> TrainingOutcome:
    """Train `tuning.model` in place by `plan`; writes history and TensorBoard log.

    With `evaluation.keep_best` the adapter ends with the weights of its best evaluation. Raises
    `TrainingFailedError` at the first loss that is not a finite number, and `ConfigError` for
    `trainer_args` that transformers doesn't take.
    """
    from torch.utils.tensorboard import SummaryWriter

    peft_model = tuning.model
    if config.training.gradient_checkpointing:
        peft_model.enable_input_require_grads()
    recorder = Recorder(plan, history, view)
    keeper = BestKeeper(config.evaluation, plan, held_out, pad_id, recorder.evaluated)
    writer = SummaryWriter(str(folder.tensorboard))
    trainer = AdapterTrainer(
        rows=rows,
        plan=plan,
        pad_id=pad_id,
        hooks=tuning,
        model=peft_model,
        args=training_arguments(config, plan, folder.path / "trainer"),
        callbacks=[recorder, keeper, TensorBoardCallback(writer)],
    )
    trainer.remove_callback(PrinterCallback)
    recorder.watch(trainer)
    started = time.monotonic()
    view.begin(plan.num_steps)
    try:
        trainer.train()
    finally:
        view.end()
        writer.close()
    best_step = keeper.restore(peft_model)
    return TrainingOutcome(
        best_step, plan.num_steps, recorder.num_tokens, time.monotonic() - started
    )
