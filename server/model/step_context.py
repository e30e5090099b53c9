"""What the layers of one forward share."""

from server.model.attention_interface import StepAttention
from server.model.kernels.backends import StepWork
from server.model.step_extras import StepExtras


class StepContext:
    """Set by the model before a forward and cleared after it; read by wrapped layers."""

    def __init__(self) -> None:
        self.work: StepWork | None = None
        self.attention: StepAttention | None = None
        self.extras: StepExtras | None = None
