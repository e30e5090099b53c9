"""Preference objectives: DPO, ORPO and KTO on the log-probabilities of answers.

The formulas are those of TRL 1.16 (`DPOTrainer`, `KTOTrainer`, `trl.experimental.orpo`), against
which a test compares losses and gradients; docs/adr/0027 says why TRL's trainers don't run them.
Reference log-probabilities are those of the base before the adapter is attached, computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from trainer.batches.batching import group_by_length
from trainer.batches.collator import IGNORED, Batch, collate_rows
from trainer.data.preference import PreferenceExample
from trainer.loop.evaluation_callback import Measurement
from trainer.loop.held_out_loss import divided, evaluating
from trainer.loop.loss import answer_log_probs
from trainer.loop.processes import Processes

PreferenceName = Literal["dpo", "orpo", "kto"]
DpoLoss = Literal["sigmoid", "ipo", "hinge", "robust"]
WEIGHT, GOOD, REFERENCE = "pair_weight", "is_good", "reference"
_NOT_FOR_THE_MODEL = (WEIGHT, GOOD, REFERENCE)


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    """What the losses are parametrised by; `trainer.config.PreferenceSection` explains each."""

    name: PreferenceName
    beta: float
    loss: DpoLoss = "sigmoid"
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """An example and what the reference gives its two answers: summed log-probabilities."""

    example: PreferenceExample
    reference: tuple[float, float]

    def __len__(self) -> int:
        return len(self.example)


@dataclass(frozen=True, slots=True)
class Compared:
    """Of each example of a forward: the policy's log-probability of both answers (with graph),
    their numbers of tokens, and what the policy gained on the reference, times beta."""

    first: torch.Tensor
    second: torch.Tensor
    first_tokens: torch.Tensor
    second_tokens: torch.Tensor
    first_reward: torch.Tensor
    second_reward: torch.Tensor


class PreferenceObjective:
    """One of the three, as the loop wants it. A batch has all first answers, then all second."""

    def __init__(self, settings: PreferenceSettings, pad_id: int) -> None:
        self._settings = settings
        self._pad_id = pad_id

    @property
    def judges_single_answers(self) -> bool:
        return self._settings.name == "kto"

    def collate(self, rows: Sequence[PreferenceRow]) -> Batch:
        answers = [row.example.row for row in rows] + [row.example.other for row in rows]
        return {
            **collate_rows(answers, self._pad_id),
            WEIGHT: torch.ones(len(rows)),
            GOOD: torch.tensor([row.example.is_good for row in rows]),
            REFERENCE: torch.tensor([row.reference for row in rows]),
        }

    def without_weight(self, batch: Batch) -> Batch:
        return {**batch, WEIGHT: torch.zeros_like(batch[WEIGHT])}

    def counts(self, batch: Batch) -> torch.Tensor:
        """Examples, and tokens of the first answers (for losses that are a mean over tokens)."""
        weight = batch[WEIGHT].double()
        labels = batch["labels"][: len(weight), 1:]
        tokens = (labels != IGNORED).sum(1).double()
        return torch.stack([weight.sum(), (tokens * weight).sum()])

    def loss(self, model: nn.Module, batch: Batch, totals: torch.Tensor) -> torch.Tensor:
        per_example, likelihood = self.parts(model, batch)
        weight = batch[WEIGHT]
        loss = (per_example * weight).sum() / totals[0].to(per_example)
        if likelihood is None:
            return loss
        return loss + (likelihood * weight).sum() / totals[1].to(loss)

    def parts(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(examples,) of the preference loss, and of the first answers' summed negative
        log-likelihood with its weight, or None where the loss has no such part."""
        settings = self._settings
        compared = self.compare(model, batch)
        if settings.name == "kto":
            return _kto(settings, compared, batch[GOOD]), None
        if settings.name == "orpo":
            return settings.beta * _odds_ratio(compared), -compared.first
        loss = _dpo(settings, compared)
        return loss, -settings.sft_weight * compared.first if settings.sft_weight else None

    def compare(self, model: nn.Module, batch: Batch) -> Compared:
        """One forward with both answers of each example."""
        inputs = {name: t for name, t in batch.items() if name not in _NOT_FOR_THE_MODEL}
        log_probs, tokens = answer_log_probs(model, inputs)
        first, second = log_probs.chunk(2)
        first_tokens, second_tokens = tokens.chunk(2)
        reference = batch[REFERENCE].to(first)
        if self._settings.name == "orpo":  # no reference: rewards are mean log-probabilities
            gained = first / first_tokens, second / second_tokens
        else:
            gained = first - reference[:, 0], second - reference[:, 1]
        beta = self._settings.beta
        return Compared(
            first, second, first_tokens, second_tokens, beta * gained[0], beta * gained[1]
        )


def _dpo(settings: PreferenceSettings, compared: Compared) -> torch.Tensor:
    """arXiv:2305.18290; ipo is arXiv:2310.12036 with TRL's mean over tokens; hinge is SLiC's;
    robust is arXiv:2403.00409, equation 12: unbiased when that share of preferences is flipped."""
    margin = compared.first_reward - compared.second_reward
    if settings.loss == "hinge":
        return functional.relu(1 - margin)
    if settings.loss == "ipo":
        mean = (
            compared.first_reward / compared.first_tokens
            - compared.second_reward / compared.second_tokens
        ) / settings.beta
        return (mean - 1 / (2 * settings.beta)) ** 2
    if settings.loss == "robust":
        flipped = settings.label_smoothing
        right, wrong = functional.logsigmoid(margin), functional.logsigmoid(-margin)
        return (flipped * wrong - (1 - flipped) * right) / (1 - 2 * flipped)
    return -functional.logsigmoid(margin)


def _odds_ratio(compared: Compared) -> torch.Tensor:
    """arXiv:2403.07691, equations 4 and 7, over mean log-probabilities."""
    first = compared.first / compared.first_tokens
    second = compared.second / compared.second_tokens
    odds = (first - second) - (_log1mexp(first) - _log1mexp(second))
    return -functional.logsigmoid(odds)


def _log1mexp(log_prob: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, accurate at both ends."""
    x = log_prob.clamp(max=-1e-7)
    return torch.where(x > -0.6931, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def _kto(settings: PreferenceSettings, compared: Compared, good: torch.Tensor) -> torch.Tensor:
    """arXiv:2402.01306; z0 is the mean gain on the stray answers of this forward, at least 0."""
    z0 = (compared.second_reward / settings.beta).mean().detach().clamp(min=0)
    gain = compared.first_reward - settings.beta * z0
    desirable = settings.desirable_weight * (1 - torch.sigmoid(gain))
    undesirable = settings.undesirable_weight * (1 - torch.sigmoid(-gain))
    return torch.where(good, desirable, undesirable)


def reference_rows(
    model: nn.Module,
    examples: Sequence[PreferenceExample],
    *,
    batch_tokens: int,
    pad_id: int,
    processes: Processes,
) -> list[PreferenceRow]:
    """Examples with what `model`, the base as it is, gives their answers."""
    device = next(model.parameters()).device

    def score(batch: Sequence[int]) -> list[tuple[float, float]]:
        rows = [examples[i].row for i in batch] + [examples[i].other for i in batch]
        tensors = {k: v.to(device) for k, v in collate_rows(rows, pad_id).items()}
        first, second = answer_log_probs(model, tensors)[0].chunk(2)
        return list(zip(first.tolist(), second.tolist(), strict=True))

    batches = group_by_length([len(example) for example in examples], batch_tokens)
    with evaluating(model):
        scores = divided(score, batches, processes)
    found = {
        i: pair
        for batch, pairs in zip(batches, scores, strict=True)
        for i, pair in zip(batch, pairs, strict=True)
    }
    return [PreferenceRow(example, found[i]) for i, example in enumerate(examples)]


def measure_preferences(
    model: nn.Module,
    rows: Sequence[PreferenceRow],
    objective: PreferenceObjective,
    *,
    batch_tokens: int,
    processes: Processes,
) -> Measurement:
    """Held-out loss, and how well rewards tell the better answer from the worse one.

    `reward_accuracy` is the share of pairs whose chosen answer has the higher reward (for judged
    answers: whose reward's sign is right), `reward_margin` the mean difference of the two rewards
    (for judged answers: mean reward of the good less that of the bad).
    """
    device = next(model.parameters()).device

    def measure(batch: Sequence[int]) -> list[tuple[float, float, float, float, bool]]:
        tensors = objective.collate([rows[i] for i in batch])
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        loss, likelihood = objective.parts(model, tensors)
        compared = objective.compare(model, tensors)
        extra = torch.zeros_like(loss) if likelihood is None else likelihood
        return list(
            zip(
                loss.tolist(), extra.tolist(), compared.first_reward.tolist(),
                compared.second_reward.tolist(), tensors[GOOD].tolist(), strict=True,
            )
        )  # fmt: skip

    batches = group_by_length([len(row) for row in rows], batch_tokens)
    with evaluating(model):
        found = [one for part in divided(measure, batches, processes) for one in part]
    tokens = sum(row.example.row.num_loss_tokens for row in rows)
    loss = sum(one[0] for one in found) / len(found) + sum(one[1] for one in found) / tokens
    return Measurement(loss, _rewards(found, objective.judges_single_answers))


def _rewards(
    found: Sequence[tuple[float, float, float, float, bool]], single: bool
) -> dict[str, float]:
    if not single:
        margins = [first - second for _, _, first, second, _ in found]
        right = sum(margin > 0 for margin in margins)
        return {
            "reward_accuracy": right / len(found),
            "reward_margin": sum(margins) / len(found),
        }
    good = [first for _, _, first, _, is_good in found if is_good]
    bad = [first for _, _, first, _, is_good in found if not is_good]
    right = sum(reward > 0 for reward in good) + sum(reward < 0 for reward in bad)

    def mean(rewards: list[float]) -> float:
        return sum(rewards) / max(len(rewards), 1)

    return {"reward_accuracy": right / len(found), "reward_margin": mean(good) - mean(bad)}
