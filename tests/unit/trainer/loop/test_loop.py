"""Steps on a tiny base: accumulation, recomputed activations, hooks, and runs that must end."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.batches.collator import IGNORED, Batch, collate_rows
from trainer.config import TrainerConfig
from trainer.data.labels import LabelledRow
from trainer.errors import TrainingFailedError
from trainer.loop.evaluation_callback import Measurement
from trainer.loop.history import History, StepRecord
from trainer.loop.hooks import NoHooks
from trainer.loop.loop import Audience, TrainingJob, checkpoint_steps, train_adapter
from trainer.loop.objective import SupervisedObjective
from trainer.loop.plan import make_plan
from trainer.loop.run_folder import RunFolder
from trainer.tuning.attachment import attach_adapter

# Rows of different lengths and shares of loss, so that a mean of means would be another loss.
ROWS = tuple(
    LabelledRow(tuple(range(5, 15 + 3 * i)), (False,) * (2 + i % 5) + (True,) * (8 + 3 * i - i % 5))
    for i in range(8)
)


class Silent:
    """A view that nobody looks at."""

    def begin(self, num_steps: int, done_steps: int) -> None: ...

    def step(self, record: StepRecord) -> None: ...

    def evaluated(self, record: StepRecord) -> None: ...

    def end(self) -> None: ...


def config(**training: Any) -> TrainerConfig:
    training = {"epochs": 1, "learning_rate": 1e-2, "device": "cpu", "warmup_share": 0, **training}
    document = {"name": "a", "base": "b", "method": "lora", "data": {"train": "x.jsonl"}}
    lora = {"r": 4, "dropout": 0.0}
    return TrainerConfig.model_validate({**document, "lora": lora, "training": training})


def train(
    base: Path, folder: Path, settings: TrainerConfig, *, collate: Any = None, hooks: Any = None
) -> tuple[dict[str, torch.Tensor], tuple[StepRecord, ...]]:
    """Trained tensors and history of a run over ROWS."""
    from adapters.base.loading import load_base
    from adapters.base.quantization import UNQUANTIZED

    folder.mkdir()
    loaded = load_base(str(base), UNQUANTIZED, dtype=torch.float32)
    tuning = attach_adapter(loaded, settings, num_steps=1, rows=ROWS, pad_id=0)
    job = TrainingJob(
        config=settings,
        plan=make_plan(settings, ROWS),
        rows=ROWS,
        objective=SupervisedObjective(collate or (lambda rows: collate_rows(rows, 0))),
        measure=lambda model: Measurement(1.0),
        folder=RunFolder(folder),
        hooks=hooks or NoHooks(),
    )
    history = History(folder / "history.jsonl")
    try:
        train_adapter(tuning.model, job, Audience(history, Silent()))
    finally:
        history.close()
    weights = {n: p.detach().clone() for n, p in tuning.model.named_parameters() if p.requires_grad}
    return weights, history.records


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def test_accumulated_forwards_equal_one_large_batch(tiny_base: Path, tmp_path: Path) -> None:
    # SGD: Adam's first step is the sign of the gradient, which hides its size.
    common: dict[str, Any] = {"max_steps": 1}
    whole = config(batch_tokens=1000, **common)
    parts = config(batch_tokens=40, gradient_accumulation=8, **common)
    runs = []
    for name, settings in (("whole", whole), ("parts", parts)):
        sgd = settings.model_copy(update={"trainer_args": {"optim": "sgd"}})
        sgd = sgd.model_copy(
            update={"training": sgd.training.model_copy(update={"learning_rate": 1.0})}
        )
        runs.append(train(tiny_base, tmp_path / name, sgd))
    assert len(make_plan(parts, ROWS).batches) > 1 == len(make_plan(whole, ROWS).batches)
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1][0].loss == pytest.approx(runs[1][1][0].loss, rel=1e-6)


def test_recomputed_activations_give_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    plain = train(tiny_base, tmp_path / "a", config(batch_tokens=60))
    recomputed = train(
        tiny_base, tmp_path / "b", config(batch_tokens=60, gradient_checkpointing=True)
    )
    assert_same(plain[0], recomputed[0])


def test_a_method_acts_while_the_gradients_are_there(tiny_base: Path, tmp_path: Path) -> None:
    class Watching(NoHooks):
        seen: list[tuple[int, bool]] = []  # noqa: RUF012

        def after_optimizer_step(self, model: Any, step: int) -> None:
            graded = all(p.grad is not None for p in model.parameters() if p.requires_grad)
            self.seen.append((step, graded))

    watching = Watching()
    _, records = train(tiny_base, tmp_path / "a", config(batch_tokens=60), hooks=watching)
    steps = [record.step for record in records if record.loss is not None]
    assert watching.seen == [(step, True) for step in steps]


def test_a_step_without_loss_ends_the_run_and_keeps_the_last_checkpoint(
    tiny_base: Path, tmp_path: Path
) -> None:
    calls: list[int] = []

    def masked(rows: Any) -> Batch:
        calls.append(1)
        batch = collate_rows(rows, 0)
        if len(calls) >= 3:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return batch

    settings = config(batch_tokens=60, checkpoints={"every": 1, "keep": 1})
    with pytest.raises(TrainingFailedError, match="step 3 carries loss: all labels are masked"):
        train(tiny_base, tmp_path / "a", settings, collate=masked)
    kept = [path.name for path in (tmp_path / "a/checkpoints").iterdir()]
    assert kept == ["step-00000002"]


@pytest.mark.parametrize(
    "schedule",
    ["linear", "constant", "cosine_with_restarts", "cosine_with_min_lr", "polynomial",
     "inverse_sqrt", "warmup_stable_decay"],
)  # fmt: skip
def test_schedules_build(schedule: str, tmp_path: Path) -> None:
    from transformers import get_scheduler

    from trainer.loop.training_arguments import training_arguments

    settings = config(schedule=schedule)
    arguments = training_arguments(settings, make_plan(settings, ROWS), tmp_path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = arguments.lr_scheduler_kwargs or {}
    scheduler = get_scheduler(schedule, optimizer, 2, 10, scheduler_specific_kwargs=options)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(1.0)


def test_checkpoints_follow_evaluations_unless_told_otherwise() -> None:
    plan = make_plan(config(batch_tokens=60), ROWS)
    assert checkpoint_steps(plan, None) == plan.eval_steps
    assert checkpoint_steps(plan, 0) == frozenset()
    assert checkpoint_steps(plan, 2) >= {2, plan.num_steps}


def test_processes_take_turns_and_the_last_round_is_filled_up() -> None:
    one, two = (make_plan(config(batch_tokens=60), ROWS, count) for count in (1, 2))
    assert one.batches == two.batches
    shares = [two.share_of(rank) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == two.num_steps
    dealt = [batch for pair in zip(*shares, strict=True) for batch in pair if batch]
    assert tuple(dealt) == one.batches
    assert two.tokens_at(two.num_steps) == sum(len(row) for row in ROWS)
    assert two.tokens_at(0) == 0
