"""What `evaluation.metrics` asks for, of base and adapter, around the training of one run."""

import json
from dataclasses import dataclass
from typing import Any

from trainer.evaluate.comparison_report import write_report
from trainer.evaluate.held_out import HeldOut, held_out_rows
from trainer.evaluate.measuring import BASE_LABEL, Measured, Meter, parse_measured
from trainer.evaluate.samples import Sample, choose_examples, paired_samples, sample_answers
from trainer.loop.checkpoints import replace_file
from trainer.loop.run_folder import RunFolder
from trainer.objectives.task import Task
from trainer.preflight.prepare import Preflight


@dataclass(frozen=True, slots=True)
class BaseEvaluation:
    """What was measured of the base, and what it answered to the sample prompts."""

    measured: Measured
    samples: tuple[str, ...]


class RunEvaluation:
    """Measures the base before step 1, so that a judge who doesn't answer is told then, and the
    adapter as it will be published. Both raise `EvaluationError`.
    """

    def __init__(self, ready: Preflight, folder: RunFolder, task: Task) -> None:
        self._ready = ready
        self._folder = folder
        self._task = task
        self.held_out = _held_out(ready, task)
        self._sampled = choose_examples(ready.data.held_out, ready.config.evaluation.samples)
        self._meter = Meter(ready.base, self.held_out, ready.labeller, ready.measuring)

    def measure_base(self, loss: float) -> BaseEvaluation:
        """The base as it was loaded, whose held-out loss is `loss`.

        Read from the run folder where it was measured already; kept there.
        """
        path = self._folder.base_evaluation
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return BaseEvaluation(parse_measured(document["measured"]), tuple(document["samples"]))
        except (OSError, ValueError, KeyError, TypeError):
            model = self._ready.base.model
            measured = self._measure(model, BASE_LABEL, loss)
            found = BaseEvaluation(measured, self._answers(model))
        document = {"measured": measured.document(), "samples": found.samples}
        text = json.dumps(document, ensure_ascii=False) + "\n"
        replace_file(path, text.encode())
        return found

    def samples(self, model: Any, base: BaseEvaluation) -> tuple[Sample, ...]:
        """The sample prompts, answered by the base and by `model`."""
        return paired_samples(self._sampled, base.samples, self._answers(model))

    def measure_adapter(self, model: Any, loss: float, base: BaseEvaluation) -> Measured:
        """The adapter on the base; writes `evaluation.json` and `evaluation.md` with both."""
        name = self._ready.config.name
        label = f"{name} (adapter)" if name == BASE_LABEL else name
        measured = self._measure(model, label, loss, against=base.measured)
        write_report(
            self._folder.path,
            [base.measured, measured],
            self.held_out,
            self._ready.config.base,
            self._ready.measuring,
        )
        return measured

    def _answers(self, model: Any) -> tuple[str, ...]:
        ready = self._ready
        return sample_answers(
            model,
            ready.base.tokenizer,
            ready.labeller,
            self._sampled,
            max_tokens=ready.config.evaluation.sample_tokens,
            pad_id=ready.pad_id,
        )

    def _measure(
        self, model: Any, label: str, loss: float, *, against: Measured | None = None
    ) -> Measured:
        # The loss of a preference run isn't that of its answers' tokens.
        known = loss if self._task.loss_is_per_token else None
        return self._meter.measure(model, label, label, loss=known, against=against)


def figures_as_metrics(base: Measured, adapter: Measured) -> dict[str, float]:
    """Both models' figures under the names that a manifest has them by: `eval_bleu_base`."""
    return {
        f"eval_{name}{suffix}": value
        for measured, suffix in ((base, "_base"), (adapter, ""))
        for name, value in measured.figures.items()
        if name != "loss"
    }


def _held_out(ready: Preflight, task: Task) -> HeldOut:
    """The rows of the run. Of preferences, answers that are good are the references."""
    data, section = ready.config.data, ready.config.evaluation
    return held_out_rows(
        task.references,
        source=data.eval if isinstance(data.eval, str) else data.train,
        digest=ready.data.digest,
        max_rows=section.max_rows,
        language=section.language,
    )
