"""The condition that a trained adapter must meet before it is published."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import ConfigError

_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_PATTERN = re.compile(
    rf"\s*eval_loss\s*(?P<op><=?)\s*(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?base|(?P<limit>{_NUMBER}))\s*"
)
_REWARD_PATTERN = re.compile(
    rf"\s*(?P<metric>eval_reward_accuracy|eval_reward_margin)\s*>\s*(?P<minimum>-?{_NUMBER})\s*"
)


@dataclass(frozen=True, slots=True)
class RewardGate:
    """`eval_reward_accuracy > minimum` or the margin, for preference objectives."""

    text: str
    metric: str
    minimum: float

    def is_open(self, metrics: Mapping[str, float]) -> bool:
        """Whether it may be published; never where the metric wasn't measured or is NaN."""
        return metrics.get(self.metric, math.nan) > self.minimum

    def explain(self, metrics: Mapping[str, float]) -> str:
        """One sentence with the measured value."""
        if self.metric not in metrics:
            return (
                f"gate `{self.text}` does not hold: only objectives dpo, orpo and kto have rewards"
            )
        verdict = "holds" if self.is_open(metrics) else "does not hold"
        return f"gate `{self.text}` {verdict}: {self.metric} {metrics[self.metric]:.4f}"


@dataclass(frozen=True, slots=True)
class Gate:
    """`eval_loss OP factor * base`, or `eval_loss OP limit`; neither given means always open."""

    text: str
    inclusive: bool = False
    factor: float | None = None
    limit: float | None = None

    def threshold(self, base_loss: float) -> float | None:
        """The loss to stay under, given the base's own; None when the gate is always open."""
        if self.factor is not None:
            return self.factor * base_loss
        return self.limit

    def is_open(self, eval_loss: float, base_loss: float) -> bool:
        """Whether an adapter with `eval_loss` may be published. A loss that is NaN never passes."""
        if not math.isfinite(eval_loss):
            return False
        threshold = self.threshold(base_loss)
        if threshold is None:
            return True
        return eval_loss <= threshold if self.inclusive else eval_loss < threshold

    def explain(self, eval_loss: float, base_loss: float) -> str:
        """One sentence with the measured values."""
        threshold = self.threshold(base_loss)
        if threshold is None:
            return f"no gate (eval loss {eval_loss:.4f}, base {base_loss:.4f})"
        verdict = "holds" if self.is_open(eval_loss, base_loss) else "does not hold"
        sign = "<=" if self.inclusive else "<"
        return (
            f"gate `{self.text}` {verdict}: eval loss {eval_loss:.4f} {sign} {threshold:.4f} "
            f"(base {base_loss:.4f})"
        )


def parse_gate(text: str) -> Gate:
    """`eval_loss < base`, `eval_loss < 0.7 * base`, `eval_loss <= 1.5`, or `none`.

    Raises `ConfigError` for anything else.
    """
    if text.strip() == "none":
        return Gate("none")
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            [
                f"{text!r} is no gate; write `eval_loss < base`, `eval_loss < 0.7 * base`, "
                "`eval_loss < 1.5`, `eval_reward_accuracy > 0.6` (preferences) or `none`"
            ]
        )
    inclusive = match["op"] == "<="
    if match["limit"] is not None:
        return Gate(text.strip(), inclusive, limit=float(match["limit"]))
    return Gate(text.strip(), inclusive, factor=float(match["factor"] or 1.0))


def parse_any_gate(text: str) -> Gate | RewardGate:
    """What `parse_gate` takes, or `eval_reward_accuracy > 0.6` or `eval_reward_margin > 0.1`.

    Raises `ConfigError` for anything else.
    """
    match = _REWARD_PATTERN.fullmatch(text)
    if match is None:
        return parse_gate(text)
    return RewardGate(text.strip(), match["metric"], float(match["minimum"]))


def gate_verdict(text: str, metrics: Mapping[str, float]) -> tuple[bool, str]:
    """Whether a run with these metrics may be published, and a sentence that says why."""
    gate = parse_any_gate(text)
    if isinstance(gate, RewardGate):
        return gate.is_open(metrics), gate.explain(metrics)
    losses = metrics["eval_loss"], metrics["eval_loss_base"]
    return gate.is_open(*losses), gate.explain(*losses)
