"""Adapters in host memory: checked and laid out as bank pages."""

import dataclasses
from dataclasses import dataclass, field

import torch

from adapters.base.host_memory import return_freed_memory
from adapters.errors import DocumentError, TensorFileError
from adapters.format.adapter_config import PromptConfig
from adapters.format.adapter_image import AdapterImage, read_image
from adapters.format.lora_config import LoraConfig
from adapters.format.tensor_roles import TensorRole
from adapters.format.tensor_values import value_problem
from server.core.errors import AdapterUnreadableError
from server.core.stack import AdapterVersion
from server.core.traits import AdapterTraits
from server.model.adapter_pages.adapter_tensors import ModuleTensors, config_of, tensors_of
from server.model.adapter_pages.base_facts import BaseFacts, BaseWeights
from server.model.adapter_pages.expert_parts import expert_factors, experts_module
from server.model.adapter_pages.linear_parts import add_bias, add_linear
from server.model.adapter_pages.page_builder import PageBuilder
from server.model.adapter_pages.page_layout import PageLayout
from server.model.adapter_pages.row_table import RowTable
from server.model.adapter_pages.special_parts import ExpertFactors, SpecialParts, TableChange
from server.model.adapter_pages.table_parts import prefix, soft_prompt, table_change


@dataclass(frozen=True)
class PagedAdapter:
    """An adapter as pages in host memory.

    `pages` [num_pages, page_elements] holds the trained values in the bank's dtype;
    `module_scales` [num_pages, num_modules] float32 is alpha/r (or alpha/sqrt(r)) of each module
    that a rank page touches, else 0. `vector_page` is the index of the page of vectors, and
    `vector_flags` [num_vectors] uint8 says which there are. `parts` are tables in the last pages.
    """

    digest: str
    pages: torch.Tensor
    module_scales: torch.Tensor
    vector_page: int | None = None
    vector_flags: torch.Tensor | None = None
    parts: SpecialParts = field(default_factory=SpecialParts)
    kind: AdapterTraits = field(default_factory=lambda: AdapterTraits(0))

    @property
    def num_pages(self) -> int:
        return self.pages.shape[0]

    @property
    def traits(self) -> AdapterTraits:
        """What scheduling must know of it."""
        return dataclasses.replace(self.kind, num_pages=self.num_pages)

    @property
    def size_bytes(self) -> int:
        return self.pages.nbytes + self.module_scales.nbytes


class PagedAdapterLoader:
    """Reads adapters into the page layout of one bank. Stateless, so threads may share it."""

    def __init__(
        self,
        layout: PageLayout,
        dtype: torch.dtype,
        facts: BaseFacts,
        weights: BaseWeights,
        *,
        pin_memory: bool = False,
    ) -> None:
        self._layout = layout
        self._places = layout.by_name
        self._vectors = layout.vectors_by_name
        self._dtype = dtype
        self._facts = facts
        self._weights = weights
        self._pin_memory = pin_memory

    def load(self, adapter: AdapterVersion, image: AdapterImage | None = None) -> PagedAdapter:
        """Lay out one adapter as pages: of its image, which was checked, or else of its folder.

        Raises `AdapterUnreadableError` when a file can't be read, a value isn't finite, a shape
        doesn't fit, nothing matches this base, or the adapter has no effect.
        """
        try:
            with torch.inference_mode():
                return self._load(adapter, _checked(adapter) if image is None else image)
        except (ValueError, DocumentError, TensorFileError) as error:
            raise AdapterUnreadableError(
                f"adapter {adapter.label} can't be served: {error}"
            ) from error

    def _load(self, adapter: AdapterVersion, image: AdapterImage) -> PagedAdapter:
        config = config_of(image)
        modules = tensors_of(image)
        facts = self._facts
        known = {"", facts.embedding, facts.head, *self._vectors}
        unmatched = sorted(
            m for m in set(modules) - known if experts_module(m) not in facts.experts
        )
        if unmatched:
            raise ValueError(f"modules that this base doesn't have: {', '.join(unmatched[:5])}")
        builder = PageBuilder(self._layout, self._dtype)
        changes: dict[str, TableChange] = {}
        experts: dict[tuple[str, str], ExpertFactors] = {}
        prompt: RowTable | None = None
        for module, tensors in modules.items():
            if not module:
                assert isinstance(config, PromptConfig)
                make = prefix if config.is_prefix else soft_prompt
                prompt = make(builder, tensors[TensorRole.PROMPT], config, facts)
            elif module in (facts.embedding, facts.head):
                changes[module] = table_change(
                    builder, module, tensors, config, self._weights, facts
                )
            elif module in self._places:
                place, vectors = self._places[module], self._vectors[module]
                _check_pairs(module, tensors)
                add_linear(builder, place, vectors, tensors, config, self._weights, facts)
            elif experts_module(module) in facts.experts:
                assert isinstance(config, LoraConfig)
                _check_pairs(module, tensors)
                parameter, factors = expert_factors(builder, module, tensors, config, facts.experts)
                experts[parameter] = factors
            else:
                add_bias(builder, self._vectors[module], tensors[TensorRole.BIAS], self._weights)
        if builder.rank > adapter.rank:
            raise ValueError(f"it has rank {builder.rank}; the store says {adapter.rank}")
        if not builder.has_effect:
            raise ValueError(
                "everything in it is as the base has it: the adapter has no effect (is it "
                "untrained?)"
            )
        is_prefix = isinstance(config, PromptConfig) and config.is_prefix
        parts = SpecialParts(
            soft_prompt=None if is_prefix else prompt,
            prefix=prompt if is_prefix else None,
            embedding=changes.get(facts.embedding),
            head=changes.get(facts.head) or self._tied_head(changes),
            experts=experts,
        )
        built = builder.build()
        pages = built.pages.pin_memory() if self._pin_memory else built.pages
        if isinstance(config, LoraConfig) and config.use_dora:
            # Its norms took every weight of the base in float32, one by one: 590 MiB of holes.
            return_freed_memory()
        return PagedAdapter(
            adapter.digest,
            pages,
            built.module_scales,
            built.vector_page,
            built.vector_flags,
            _shifted(parts, builder.num_pages_before_tables()),
            AdapterTraits(
                num_pages=pages.shape[0],
                num_virtual_tokens=(
                    config.num_virtual_tokens if isinstance(config, PromptConfig) else 0
                ),
                is_prefix=is_prefix,
                is_dora=isinstance(config, LoraConfig) and config.use_dora,
                is_ia3=config.method == "ia3",
                invocation_token_ids=(
                    config.invocation_token_ids if isinstance(config, LoraConfig) else ()
                ),
            ),
        )

    def _tied_head(self, changes: dict[str, TableChange]) -> TableChange | None:
        """Trained tokens of an embedding that is the output head as well change both (PEFT)."""
        change = changes.get(self._facts.embedding)
        if change is None or change.token_ids is None or not self._facts.is_tied:
            return None
        return TableChange(change.rows, change.token_ids)


def _checked(adapter: AdapterVersion) -> AdapterImage:
    image = read_image(adapter.path)
    if problem := value_problem(image):
        raise ValueError(problem)
    return image


def _check_pairs(module: str, tensors: ModuleTensors) -> None:
    sides = {TensorRole.LORA_A, TensorRole.LORA_B} & set(tensors)
    if len(sides) == 1:
        raise ValueError(f"{module} has one LoRA factor without its partner")


def _shifted(parts: SpecialParts, num_pages: int) -> SpecialParts:
    """The tables counted from the adapter's first page, not from its first row page."""

    def moved(before: RowTable) -> RowTable:
        return dataclasses.replace(before, first_page=before.first_page + num_pages)

    def table(before: RowTable | None) -> RowTable | None:
        return None if before is None else moved(before)

    def change(before: TableChange | None) -> TableChange | None:
        if before is None:
            return None
        return dataclasses.replace(
            before, rows=table(before.rows), a=table(before.a), b=table(before.b)
        )

    return SpecialParts(
        table(parts.soft_prompt),
        table(parts.prefix),
        change(parts.embedding),
        change(parts.head),
        {
            name: dataclasses.replace(f, a=moved(f.a), b=moved(f.b))
            for name, f in parts.experts.items()
        },
    )
