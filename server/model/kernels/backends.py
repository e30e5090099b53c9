"""Which kernels a device runs: the one place that knows them all.

A backend is two functions with the call shapes of `server.model.kernels.reference`, which every
other one is tested against. Faster ones are imported here, only when they are chosen, since their
libraries need not be installed.
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from server.model.adapter_pages.page_layout import ModulePlace
from server.model.geometry import AttentionOptions
from server.model.kernels import reference
from server.model.kernels.work_plan import WorkTables
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs

logger = logging.getLogger(__name__)


class StepWork(Protocol):
    """The adapter work of one step, shared by all modules."""

    @property
    def is_empty(self) -> bool:
        """Whether no token of the step has an adapter."""
        ...

    def add(
        self,
        out_TN: torch.Tensor,
        inputs_TK: torch.Tensor,
        factors: tuple[torch.Tensor, torch.Tensor],
        module_scales: torch.Tensor,
        place: ModulePlace,
    ) -> None:
        """Add each token's adapters to `out_TN` in place."""
        ...


class Attend(Protocol):
    """Causal attention of a step's rows over their own cached tokens."""

    def __call__(
        self,
        queries_THD: torch.Tensor,
        cache: KVCache,
        layer: int,
        step: StepInputs,
        options: AttentionOptions,
    ) -> torch.Tensor:
        """[T, H, D], in the dtype of the queries."""
        ...


@dataclass(frozen=True, slots=True)
class KernelBackend:
    """The kernels behind the generic way through a model. `name` goes to the log and metrics.

    `make_static_work` builds a step's work over tables that are loaded anew before each replay of
    a captured graph; None says that the kernels can't be captured. `make_linear` gives the module
    that takes a base linear's place.
    """

    name: str
    make_work: Callable[[StepInputs], StepWork]
    attend: Attend
    make_static_work: Callable[[StepInputs, WorkTables], StepWork] | None = None
    make_linear: Callable[[nn.Module], nn.Module] | None = None


def choose_backend(device: str) -> KernelBackend:
    """Triton's kernels on a GPU where triton is installed, else the reference; logs which, why."""
    if not device.startswith("cuda"):
        return _chosen(reference_backend(), f"the device is {device}")
    if importlib.util.find_spec("triton") is None:
        return _chosen(reference_backend(), "triton isn't installed: pip install triton")
    return _chosen(_triton_backend(), f"the device is {device}")


def _chosen(backend: KernelBackend, reason: str) -> KernelBackend:
    logger.info("kernel backend %s (%s)", backend.name, reason)
    return backend


def reference_backend() -> KernelBackend:
    """Plain torch, on any device."""
    return KernelBackend("reference", reference.AdapterWork, reference.attend)


def _triton_backend() -> KernelBackend:
    from server.model.kernels import triton_adapters, triton_attention

    work = triton_adapters.TritonAdapterWork
    return KernelBackend("triton", work, triton_attention.attend, make_static_work=work)
