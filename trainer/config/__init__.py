"""The YAML of a training run, as frozen sections. `trainer.config_loading` reads it.

One file for each section; `document.py` puts them together, `contradictions.py` says which keys
can't stand together.
"""

from trainer.config.data import CleaningSection, DataSection
from trainer.config.document import TrainerConfig
from trainer.config.evaluation import EvaluationSection, JudgeSection
from trainer.config.method import (
    AdaloraSection,
    Ia3Section,
    LoraSection,
    Method,
    PromptSection,
    QuantizationSection,
)
from trainer.config.objective import Objective, PreferenceSection
from trainer.config.publish import PublishSection
from trainer.config.section import Section
from trainer.config.training import (
    CheckpointSection,
    EarlyStoppingSection,
    LoggingSection,
    TrainingSection,
)

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
