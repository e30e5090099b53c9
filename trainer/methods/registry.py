"""Every training method, in the order in which the config's schema lists them.

To add one: write its record in a file of its own here, and put it into `_METHODS`. Its name, its
section and its defaults are then the config's; nothing else asks which method it is
(docs/extending.md).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trainer.methods.adalora import Adalora
from trainer.methods.dora import Dora
from trainer.methods.full import Full
from trainer.methods.ia3 import Ia3
from trainer.methods.lora import Lora
from trainer.methods.method import MethodSection, TrainingMethod
from trainer.methods.p_tuning import PTuning
from trainer.methods.prefix_tuning import PrefixTuning
from trainer.methods.prompt_tuning import PromptTuning
from trainer.methods.qlora import Qlora
from trainer.methods.rslora import Rslora

_METHODS: tuple[TrainingMethod, ...] = (
    Lora(),
    Qlora(),
    Rslora(),
    Dora(),
    Adalora(),
    Ia3(),
    PromptTuning(),
    PrefixTuning(),
    PTuning(),
    Full(),
)

METHODS: Mapping[str, TrainingMethod] = MappingProxyType({m.name: m for m in _METHODS})
"""By name."""

METHOD_SECTIONS: tuple[MethodSection[Any], ...] = tuple(
    dict.fromkeys(section for method in _METHODS for section in method.sections)
)
"""The sections of all methods, once each."""


def methods_reading(section: MethodSection[Any]) -> list[str]:
    """The names of the methods that read `section`, sorted."""
    return sorted(method.name for method in _METHODS if section in method.sections)


def sections_unused_by(name: str) -> set[str]:
    """The keys of the sections that have no effect with the method `name`."""
    method = METHODS[name]
    unused = {section.name for section in METHOD_SECTIONS if section not in method.sections}
    return unused if method.quantizes_base else unused | {"quantization"}
