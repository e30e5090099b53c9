"""What the event loop keeps of a request while it is answered."""

from dataclasses import dataclass, field

from server.core.stack import AdapterVersion
from server.engine.answer_text import AnswerText
from server.engine.delta_queue import DeltaQueue


@dataclass
class InFlight:
    """One accepted request until its caller has everything. `accepted_at` in seconds."""

    label: str
    adapter: AdapterVersion | None  # the only one, if it is alone
    num_choices: int
    accepted_at: float
    deltas: DeltaQueue = field(default_factory=DeltaQueue)
    open_choices: int = 0


@dataclass
class Choice:
    """One of its sequences."""

    index: int
    text: AnswerText
    request: InFlight
    last_token_at: float | None = None
