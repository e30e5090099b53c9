"""What the config leaves open is chosen from the data, and said."""

from trainer.config import TrainerConfig, defaults
from trainer.data.labels import LabelledRow
from trainer.loop.plan import make_plan


def rows(count: int, length: int = 50) -> list[LabelledRow]:
    return [LabelledRow((1,) * length, (True,) * length)] * count


def config(**training: object) -> TrainerConfig:
    document = {"name": "a", "base": "b", "data": {"train": "x.jsonl"}, "training": training}
    return TrainerConfig.model_validate(document)


def test_small_data_is_repeated_and_the_choice_is_said() -> None:
    plan = make_plan(config(), rows(100))
    assert len(plan.epoch_ends) == defaults.MAX_EPOCHS
    assert [note.split(":")[0] for note in plan.notes] == ["epochs", "batch_tokens"]


def test_large_data_is_seen_once() -> None:
    assert len(make_plan(config(), rows(5000, 10)).epoch_ends) == 1


def test_given_values_are_kept_and_nothing_is_said() -> None:
    plan = make_plan(config(epochs=2, batch_tokens=500), rows(40))
    assert plan.batch_tokens == 500
    assert (len(plan.batches), plan.num_steps) == (8, 8)
    assert plan.notes == ()
    assert plan.eval_steps == {4, 8}
    assert plan.warmup_steps == 1


def test_accumulation_makes_fewer_steps() -> None:
    plan = make_plan(config(epochs=1, batch_tokens=500, gradient_accumulation=3), rows(40))
    assert (len(plan.batches), plan.num_steps) == (4, 2)
    assert plan.epoch_at(1) == 0.75
    assert plan.epoch_at(2) == 1.0


def test_max_steps_cuts_the_plan() -> None:
    plan = make_plan(config(epochs=4, batch_tokens=500, max_steps=6), rows(40))
    assert (len(plan.batches), plan.num_steps) == (6, 6)
    assert plan.epoch_at(6) == 1.5
    assert plan.eval_steps == {4, 6}
    assert "max_steps ends the run after 6 steps" in plan.notes


def test_the_last_step_is_not_warm_up() -> None:
    only = config(epochs=1, batch_tokens=5000, warmup_share=0.9)
    assert make_plan(only, rows(40)).num_steps == 1
    assert make_plan(only, rows(40)).warmup_steps == 0


def test_batch_holds_the_longest_row() -> None:
    long = LabelledRow((1,) * 9000, (True,) * 9000)
    assert make_plan(config(), [long, *rows(3)]).batch_tokens == 9000
