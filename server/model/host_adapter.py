"""Adapters in host memory: read from safetensors, checked, laid out as bank pages."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from adapters.adapter_config import parse_adapter_config, read_adapter_config
from adapters.errors import DocumentError
from adapters.lora_config import LoraConfig
from adapters.rank_pages import PAGE_RANK, pages_for_rank
from server.core.errors import AdapterUnreadableError
from server.core.stack import AdapterVersion
from server.model.page_layout import ModulePlace, PageLayout

_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class PagedAdapter:
    """An adapter as pages in host memory.

    `pages` [num_pages, page_elements] holds exactly the trained values in the bank's dtype;
    `module_scales` [num_modules] float32 is alpha/r (or alpha/sqrt(r)) per module, 0 where the
    adapter doesn't touch the module.
    """

    digest: str
    pages: torch.Tensor
    module_scales: torch.Tensor

    @property
    def num_pages(self) -> int:
        return self.pages.shape[0]

    @property
    def size_bytes(self) -> int:
        return self.pages.nbytes + self.module_scales.nbytes


class PagedAdapterLoader:
    """Reads adapters into the page layout of one bank. Stateless, so threads may share it."""

    def __init__(self, layout: PageLayout, dtype: torch.dtype, *, pin_memory: bool = False) -> None:
        self._layout = layout
        self._places = layout.by_name
        self._dtype = dtype
        self._pin_memory = pin_memory

    def load(self, adapter: AdapterVersion) -> PagedAdapter:
        """Read one adapter's folder into pages.

        Raises `AdapterUnreadableError` when a file can't be read, a value isn't finite, a shape
        doesn't fit, nothing matches this base, or every B is zero (the adapter has no effect).
        """
        try:
            return self._load(adapter)
        except (OSError, SafetensorError, ValueError, DocumentError) as error:
            raise AdapterUnreadableError(
                f"adapter {adapter.label} can't be served: {error}"
            ) from error

    def _load(self, adapter: AdapterVersion) -> PagedAdapter:
        config = _read_config(adapter.path)
        factors = _read_factors(adapter.path / "adapter_model.safetensors")
        unmatched = sorted(set(factors) - set(self._places))
        if unmatched:
            raise ValueError(f"modules that this base doesn't have: {', '.join(unmatched[:5])}")
        pages = torch.zeros(adapter.num_pages, self._layout.page_elements, dtype=self._dtype)
        scales = torch.zeros(len(self._layout.places))
        has_effect = False
        for module, sides in factors.items():
            a_RK, b_NR = _both_sides(module, sides)
            place = self._places[module]
            _check_shapes(place, a_RK, b_NR, adapter.rank)
            has_effect = has_effect or bool((b_NR != 0).any() and (a_RK != 0).any())
            scales[place.index] = config.scaling_of(module)
            self._fill(pages, place, a_RK, b_NR)
        if not has_effect:
            raise ValueError("every delta is zero: the adapter has no effect (is it untrained?)")
        if self._pin_memory:
            pages = pages.pin_memory()
        return PagedAdapter(adapter.digest, pages, scales)

    def _fill(
        self, pages: torch.Tensor, place: ModulePlace, a_RK: torch.Tensor, b_NR: torch.Tensor
    ) -> None:
        a = pages[:, place.a_offset : place.b_offset].view(-1, PAGE_RANK, place.in_features)
        end = place.b_offset + PAGE_RANK * place.out_features
        b = pages[:, place.b_offset : end].view(-1, PAGE_RANK, place.out_features)
        rank = a_RK.shape[0]
        for page in range(pages_for_rank(rank)):
            rows = slice(page * PAGE_RANK, min(rank, (page + 1) * PAGE_RANK))
            height = rows.stop - rows.start
            a[page, :height] = a_RK[rows].to(self._dtype)
            b[page, :height] = b_NR[:, rows].T.to(self._dtype)


def _read_config(folder: Path) -> LoraConfig:
    problems: list[str] = []
    config = parse_adapter_config(read_adapter_config(folder / "adapter_config.json"), problems)
    if config is None or problems:
        raise ValueError("; ".join(problems))
    if not isinstance(config, LoraConfig) or config.is_adalora:
        raise ValueError(f"the method {config.method} is known but isn't served yet")
    if config.invocation_token_ids:
        raise ValueError("activated LoRA is known but isn't served yet")
    return config


def _read_factors(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    factors: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - safe_open isn't a mapping
            match = _KEY.fullmatch(key.removeprefix(_PREFIX))
            if match is None:
                raise ValueError(f"tensor {key} isn't a LoRA factor; this method isn't served")
            tensor = file.get_tensor(key)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"tensor {key} holds NaN or infinite values")
            factors.setdefault(match["module"], {})[match["side"]] = tensor
    if not factors:
        raise ValueError(f"{path.name} holds no LoRA factor")
    return factors


def _both_sides(module: str, sides: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    if set(sides) != {"A", "B"}:
        raise ValueError(f"{module} has lora_{'/'.join(sorted(sides))} without its partner")
    return sides["A"], sides["B"]


def _check_shapes(place: ModulePlace, a_RK: torch.Tensor, b_NR: torch.Tensor, rank: int) -> None:
    r = a_RK.shape[0]
    wanted = ((r, place.in_features), (place.out_features, r))
    if (tuple(a_RK.shape), tuple(b_NR.shape)) != wanted or r > rank:
        raise ValueError(
            f"{place.name}: A {tuple(a_RK.shape)} and B {tuple(b_NR.shape)} don't fit this base "
            f"({place.in_features} inputs, {place.out_features} outputs) at rank {rank}"
        )
