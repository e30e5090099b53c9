"""What the layers of one forward share."""

from typing import TYPE_CHECKING, Any

from server.model.kernels.backends import StepWork
from server.model.step.step_extras import StepExtras

if TYPE_CHECKING:
    from server.model.forward.attention_interface import StepAttention
    from server.model.forward.row_by_row import RowScope


class StepContext:
    """Set by the model before a forward and cleared after it; read by wrapped layers.

    `scopes` are the rows of a step of a model that keeps states, and `step_cache` is the object
    that stands for all their caches.
    """

    def __init__(self) -> None:
        self.work: StepWork | None = None
        self.attention: StepAttention | None = None
        self.extras: StepExtras | None = None
        self.scopes: list[RowScope] | None = None
        self.step_cache: Any = None
        self._whole: tuple[Any, Any, Any] = (None, None, None)

    def set(
        self, work: StepWork | None, attention: "StepAttention | None", extras: StepExtras | None
    ) -> None:
        """What the whole step sees."""
        self._whole = (work, attention, extras)
        self.leave_row()

    def enter_row(
        self, work: StepWork | None, attention: "StepAttention | None", extras: StepExtras | None
    ) -> None:
        """Until `leave_row`, layers see one row's part of the step."""
        self.work, self.attention, self.extras = work, attention, extras

    def leave_row(self) -> None:
        """Layers see the whole step again."""
        self.work, self.attention, self.extras = self._whole

    def clear(self) -> None:
        """The forward is over."""
        self.scopes = self.step_cache = None
        self.set(None, None, None)
