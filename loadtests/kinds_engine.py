"""Scheduler and runner driven by hand, step by step, with the logits of each drawn token kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adapters.inspection import inspect_adapter
from server.core.batch import StepOutput
from server.core.request import SamplingParams
from server.core.settings import SchedulerSettings
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from server.core.traits import stack_problem
from server.model.host_adapter import PagedAdapter, PagedAdapterLoader
from server.model.runner import TorchRunner
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence as ScheduledSequence

Stack = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Answer:
    """Greedy tokens and the logits [tokens, vocabulary] that they were chosen from."""

    token_ids: list[int]
    logits: torch.Tensor


class KindsEngine:
    """Adapters by name over one runner. Cache and bank are kept from one call to the next."""

    def __init__(
        self, runner: TorchRunner, loader: PagedAdapterLoader, settings: SchedulerSettings
    ) -> None:
        self._runner = runner
        self._loader = loader
        self._settings = settings
        self._adapters: dict[str, PagedAdapter] = {}
        self._versions: dict[str, AdapterVersion] = {}
        self.scheduler = self._new_scheduler()
        self._num_sequences = 0

    def load(self, name: str, folder: Path) -> PagedAdapter:
        """Read an adapter into host memory, as the store would describe it."""
        rank = inspect_adapter(folder).rank
        version = AdapterVersion(name, 1, f"sha256:{name}", rank, folder)
        self._versions[name] = version
        self._adapters[version.digest] = self._loader.load(version)
        return self._adapters[version.digest]

    def forget_cache(self) -> None:
        """Start with an empty KV cache and bank."""
        self.scheduler = self._new_scheduler()

    def generate(
        self,
        requests: Sequence[tuple[list[int], Stack]],
        count: int,
        *,
        follow: Sequence[Sequence[int]] | None = None,
    ) -> list[Answer]:
        """Run all requests together. `follow` gives the tokens to continue with."""
        index_of = {
            self._add(prompt, stack, count): i for i, (prompt, stack) in enumerate(requests)
        }
        tokens: list[list[int]] = [[] for _ in requests]
        logits: list[list[torch.Tensor]] = [[] for _ in requests]
        while self.scheduler.has_work:
            plan = self.scheduler.schedule()
            assert plan is not None
            for placement in plan.placements:
                self._runner.place_adapter(placement.pages, self._adapters[placement.digest])
            values = self._runner.logits(plan.batch)
            drawn: dict[int, int] = {}
            for row, value in zip([r for r in plan.batch.rows if r.samples], values, strict=True):
                index = index_of[row.sequence_id]
                logits[index].append(value.float().clone())
                step = len(tokens[index])
                chosen = follow[index][step] if follow else int(value.argmax())
                tokens[index].append(chosen)
                drawn[row.sequence_id] = chosen
            self.scheduler.update(plan.batch, StepOutput(drawn))
            self.scheduler.check_integrity()
        return [Answer(t, torch.stack(v)) for t, v in zip(tokens, logits, strict=True)]

    def _add(self, prompt: list[int], stack: Stack, count: int) -> int:
        members = tuple(StackMember(self._versions[name], scale) for name, scale in stack)
        versions = AdapterStack(members)
        traits = {m.adapter.digest: self._adapters[m.adapter.digest].traits for m in members}
        problem = stack_problem(versions, [traits[m.adapter.digest] for m in members])
        assert problem is None, problem
        sequence = ScheduledSequence(
            self._num_sequences,
            tuple(prompt),
            SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True),
            versions,
            seed=0,
            max_len=self._settings.max_model_len,
            traits=traits,
        )
        self._num_sequences += 1
        self.scheduler.add(sequence)
        return sequence.sequence_id

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self._settings, eos_token_ids=frozenset(), base_digest="base")
