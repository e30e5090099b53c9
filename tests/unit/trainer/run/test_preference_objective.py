"""Preference objectives: the losses and gradients of TRL's own trainers on the same answers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.unit.trainer.tiny import byte_tokenizer
from trainer.data.conversation import ASSISTANT, USER, Conversation, Turn
from trainer.data.labels import LabelledRow
from trainer.data.preference import PreferenceExample
from trainer.loop.objective import Objective
from trainer.loop.processes import ALONE
from trainer.objectives.preference import (
    PreferenceObjective,
    PreferenceRow,
    PreferenceSettings,
    measure_preferences,
    reference_rows,
)

BETA = 0.2


def answer(prompt: Sequence[int], tokens: Sequence[int]) -> LabelledRow:
    return LabelledRow((*prompt, *tokens), (False,) * len(prompt) + (True,) * len(tokens))


def examples(*, judged: bool = False) -> list[PreferenceExample]:
    prompts = [(5, 6, 7), (8, 9), (10, 11, 12, 13), (14,)]
    good = [(20, 21, 3), (22, 3), (23, 24, 25, 3), (26, 3)]
    bad = [(30, 3), (31, 32, 33, 3), (34, 3), (35, 36, 3)]
    talk = Conversation((Turn(USER, "q"), Turn(ASSISTANT, "a")))
    made = []
    for index, prompt in enumerate(prompts):
        other = good[index - 1] if judged else bad[index]
        rows = answer(prompt, good[index]), answer(prompt, other)
        made.append(PreferenceExample(talk, *rows, is_good=not judged or index % 2 == 0))
    return made


def models(base: Path) -> tuple[Any, Any]:
    """The reference, and a policy that has moved away from it."""
    reference = AutoModelForCausalLM.from_pretrained(base)
    policy = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return reference, policy


def rows_of(reference: Any, found: list[PreferenceExample]) -> list[PreferenceRow]:
    return reference_rows(reference, found, batch_tokens=12, pad_id=0, processes=ALONE)


def step_loss(objective: Objective, model: Any, batches: Sequence[Sequence[Any]]) -> torch.Tensor:
    made = [objective.collate(batch) for batch in batches]
    totals = torch.stack([objective.counts(batch) for batch in made]).sum(0)
    return torch.stack([objective.loss(model, batch, totals) for batch in made]).sum()


def trl_loss(name: str, reference: Any, policy: Any, folder: Path, **options: Any) -> torch.Tensor:
    """What TRL's own trainer makes of the same token ids."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    judged = name == "kto"
    rows = []
    for example in examples(judged=judged):
        first = example.row.token_ids
        start = example.row.carries_loss.index(True)
        row: dict[str, Any] = {"prompt_ids": list(first[:start])}
        if judged:
            row |= {"completion_ids": list(first[start:]), "label": example.is_good}
            row["KL_completion_ids"] = list(example.other.token_ids[start:])
        else:
            row |= {"chosen_ids": list(first[start:])}
            row["rejected_ids"] = list(example.other.token_ids[start:])
        rows.append(row)
    config_class, trainer_class = (KTOConfig, KTOTrainer) if judged else (DPOConfig, DPOTrainer)
    config = config_class(
        output_dir=str(folder), beta=BETA, use_cpu=True, report_to=[], bf16=False,
        disable_tqdm=True, gradient_checkpointing=False, per_device_train_batch_size=4, **options,
    )  # fmt: skip
    text = (
        {"prompt": "a", "completion": "b", "label": True}
        if judged
        else {"prompt": "a", "chosen": "b", "rejected": "c"}
    )
    trainer = trainer_class(
        model=policy,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list([text, {**text, "label": False}] if judged else [text]),
        processing_class=byte_tokenizer(),
    )
    batch = trainer.data_collator(rows)
    loss: torch.Tensor = trainer.compute_loss(policy, batch)
    return loss


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "settings"),
    [
        ("dpo", {}, {}),
        ("dpo", {"loss_type": ["ipo"]}, {"loss": "ipo"}),
        ("dpo", {"loss_type": ["hinge"]}, {"loss": "hinge"}),
        (
            "dpo",
            {"loss_type": ["robust"], "label_smoothing": 0.2},
            {"loss": "robust", "label_smoothing": 0.2},
        ),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}, {"sft_weight": 0.5}),
        ("kto", {}, {}),
        ("kto", {"undesirable_weight": 1.5}, {"undesirable_weight": 1.5}),
    ],
)
def test_losses_and_gradients_are_those_of_trl(
    tiny_base: Path, tmp_path: Path, name: Any, options: Any, settings: Any
) -> None:
    gradients, losses = [], []
    for ours in (True, False):
        reference, policy = models(tiny_base)
        if ours:
            objective = PreferenceObjective(PreferenceSettings(name, BETA, **settings), 0)
            found = rows_of(reference, examples(judged=name == "kto"))
            loss = step_loss(objective, policy, [found])
        else:
            loss = trl_loss(name, reference, policy, tmp_path, **options)
        weight = policy.model.layers[0].mlp.down_proj.weight
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_odds_ratio_is_that_of_trl(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from types import SimpleNamespace

    from trl.experimental.orpo import ORPOTrainer

    reference, policy = models(tiny_base)
    rows = rows_of(reference, examples())
    objective = PreferenceObjective(PreferenceSettings("orpo", BETA), 0)
    batch = objective.collate(rows)
    compared = objective.compare(policy, batch)
    first = compared.first / compared.first_tokens
    second = compared.second / compared.second_tokens
    device = SimpleNamespace(device="cpu")
    theirs = ORPOTrainer.odds_ratio_loss(
        SimpleNamespace(beta=BETA, accelerator=device), first, second
    )[0]
    tokens = sum(row.example.row.num_loss_tokens for row in rows)
    expected = -theirs.mean() - compared.first.sum() / tokens
    torch.testing.assert_close(step_loss(objective, policy, [rows]), expected)


@pytest.mark.parametrize("name", ["dpo", "orpo"])
def test_forwards_of_a_step_add_up_to_one_large_batch(tiny_base: Path, name: Any) -> None:
    reference, policy = models(tiny_base)
    rows = rows_of(reference, examples())
    objective = PreferenceObjective(PreferenceSettings(name, BETA, sft_weight=0.3), 0)
    whole = step_loss(objective, policy, [rows])
    torch.testing.assert_close(step_loss(objective, policy, [rows[:3], rows[3:]]), whole)
    blank = objective.without_weight(objective.collate(rows[:1]))
    assert objective.counts(blank).tolist() == [0, 0]
    assert objective.loss(policy, blank, objective.counts(objective.collate(rows))).item() == 0


def test_an_untrained_policy_has_no_margin_and_dpo_is_log_2(tiny_base: Path) -> None:
    reference, _ = models(tiny_base)
    rows = rows_of(reference, examples())
    objective = PreferenceObjective(PreferenceSettings("dpo", BETA), 0)
    found = measure_preferences(reference, rows, objective, batch_tokens=50, processes=ALONE)
    assert found.loss == pytest.approx(0.693147, abs=1e-5)
    assert found.metrics["reward_margin"] == pytest.approx(0, abs=1e-5)
