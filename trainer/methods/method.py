"""What a training method answers for itself: all that config, plan, memory and publishing ask."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from trainer.config import defaults
from trainer.config.section import Section
from trainer.methods.targets import BaseGeometry, Shape

if TYPE_CHECKING:
    from torch import nn

    from trainer.config import TrainerConfig
    from trainer.methods.model_shape import ModelShape
    from trainer.tuning.attachment import RunStart
    from trainer.tuning.tuning import Tuning

_S = TypeVar("_S", bound=Section)


@dataclass(frozen=True)
class MethodSection(Generic[_S]):
    """A section of the config that only some methods read: its key there, its model, its comment.

    It is refused beside a method that doesn't have it among its `sections`.
    """

    name: str
    model: type[_S]
    description: str

    def of(self, config: "TrainerConfig") -> _S:
        """The section of `config`, with its defaults where the method has another one."""
        section: _S = getattr(config, self.name)
        return section


@dataclass(frozen=True, slots=True)
class TrainingForward:
    """A forward whose memory is predicted: `tokens` with padding on a base of `shape`.

    `element_bytes` are those of the compute dtype; `is_lean` says that LoRA's linears are
    `lean_lora`'s.
    """

    shape: "ModelShape"
    tokens: int
    element_bytes: int
    is_packed: bool
    is_lean: bool


class TrainingMethod(ABC):
    """A way to fine-tune a base; without state, so one object serves every run.

    Importing one loads neither torch nor PEFT: `trainer init`, `schema` and config errors come at
    once. What needs them imports them when it is called.
    """

    name: ClassVar[str]
    """What the config calls it."""

    sections: ClassVar[tuple[MethodSection[Any], ...]] = ()
    """The sections that it reads."""

    ignored_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of those, dotted, that have no effect with it; `contradictions` refuses them."""

    learning_rate: ClassVar[float] = defaults.LEARNING_RATE
    """The peak where the config gives none."""

    quantizes_base: ClassVar[bool] = True
    """Whether the base is held as the section `quantization` says; unquantised otherwise."""

    trains_base: ClassVar[bool] = False
    """Whether what is trained are the base's own weights: in float32, which keeps small updates,
    computing in bfloat16 by autocast where the device would."""

    publishes_adapter: ClassVar[bool] = True
    """Whether what comes out is an adapter, for a store and a server."""

    packs_rows: ClassVar[bool] = True
    """Whether rows may share one sequence."""

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        """One line for each pair of keys, as written, that can't stand together under it."""
        return []

    def rank(self, config: "TrainerConfig") -> int:
        """Rank that each adapted module begins with; 0 for methods without ranks."""
        return 0

    def alpha(self, config: "TrainerConfig") -> float:
        """The scale's numerator; 0 for methods without ranks."""
        return 0.0

    @abstractmethod
    def describe(self, config: "TrainerConfig") -> str:
        """The method's settings in one line, for tables and cards."""

    @abstractmethod
    def match_modules(
        self, config: "TrainerConfig", modules: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """Those of the base's linears that it changes.

        Raises `MethodError` naming every target that matches nothing, and what there is.
        """

    @abstractmethod
    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        """Parameters that it trains on the matched modules."""

    def count_in_model(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], model: "nn.Module"
    ) -> int:
        """All parameters that it trains of or on `model`, trained biases apart."""
        model_config: Any = model.config
        return self.count_parameters(config, matched, BaseGeometry.of(model_config))

    def count_in_shape(self, config: "TrainerConfig", shape: "ModelShape") -> int:
        """The same, from the base's sizes; modules that are saved whole apart."""
        matched = self.match_modules(config, shape.linears)
        return self.count_parameters(config, matched, shape.geometry)

    @abstractmethod
    def attach(self, start: "RunStart") -> "Tuning":
        """Put it on the base of `start`, fresh, drawn from torch's generator."""

    def is_lean(self, config: "TrainerConfig") -> bool:
        """Whether `make_lora_lean` changes the linears of such a run on a CPU."""
        return False

    def padded_tokens(self, config: "TrainerConfig", tokens: int) -> int:
        """Positions of a forward over so many tokens, with what it puts beside them."""
        return tokens

    @abstractmethod
    def kept_bytes(self, config: "TrainerConfig", forward: TrainingForward) -> int:
        """What it makes a forward keep for its backward beside what the frozen base keeps."""

    def passing_blocks(self, config: "TrainerConfig", forward: TrainingForward) -> Sequence[int]:
        """Sizes in bytes of the tensors that a forward makes for it and doesn't keep."""
        return ()

    def published_rank(self, config: "TrainerConfig", matched: Mapping[str, Shape]) -> int:
        """The largest rank in the published folder; 0 for methods without ranks."""
        return 0

    def published_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
    ) -> Any | None:
        """PEFT's config of what is published; None for a LoRA whose ranks the run finds."""
        return None


class AdapterMethod(TrainingMethod):
    """A method that PEFT knows."""

    @abstractmethod
    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        """What PEFT is told. `modules` are the linears of the base, `num_steps` the run's optimiser
        steps, `is_transposed` whether linears hold their weights as (in, out), as GPT-2 does.
        """

    def attach(self, start: "RunStart") -> "Tuning":
        from trainer.tuning.attachment import put_on_base
        from trainer.tuning.tuning import Tuning

        return Tuning(put_on_base(self, start), start.config)

    def published_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
    ) -> Any | None:
        return self.peft_config(config, modules, geometry, num_steps=num_steps, is_transposed=False)
