"""The YAML of a training run, as frozen sections. `trainer.config.loading` reads it.

One file for each section, those of the methods being in `trainer.methods`; `document.py` puts them
together, `contradictions.py` says which keys can't stand together.
"""

from trainer.config.data import CleaningSection, DataSection
from trainer.config.document import TrainerConfig
from trainer.config.evaluation import EvaluationSection, JudgeSection
from trainer.config.method import Method, QuantizationSection
from trainer.config.objective import Objective, PreferenceSection
from trainer.config.publish import PublishSection
from trainer.config.section import Section
from trainer.config.training import (
    CheckpointSection,
    EarlyStoppingSection,
    LoggingSection,
    TrainingSection,
)
from trainer.methods.adalora import AdaloraSection
from trainer.methods.ia3 import Ia3Section
from trainer.methods.lora_family import LoraSection
from trainer.methods.prompt_family import PromptSection

__all__ = [
    "AdaloraSection",
    "CheckpointSection",
    "CleaningSection",
    "DataSection",
    "EarlyStoppingSection",
    "EvaluationSection",
    "Ia3Section",
    "JudgeSection",
    "LoggingSection",
    "LoraSection",
    "Method",
    "Objective",
    "PreferenceSection",
    "PromptSection",
    "PublishSection",
    "QuantizationSection",
    "Section",
    "TrainerConfig",
    "TrainingSection",
]
