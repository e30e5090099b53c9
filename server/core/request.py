"""A request for text, and what its caller gets back."""

from dataclasses import dataclass
from enum import Enum

from server.core.grammar import CompiledGrammar
from server.core.logit_rules import LogitRules
from server.core.logprobs import NO_SCORES, Scores
from server.core.stack import BASE_STACK, AdapterStack


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token of one sequence is chosen, and what is told about it.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 leave all tokens in. `max_tokens`
    counts generated tokens; before `min_tokens` of them nothing ends the answer. `stop` strings end
    the text before their first character, `stop_token_ids` before their own text; with
    `includes_stop` the text keeps them. With the same `seed` the same text comes back, whatever
    else is in the batch; choice i draws from seed + i. `logprobs` is how many alternatives to tell
    for each generated token, `prompt_logprobs` for each prompt token; None tells nothing. `rules`
    and `grammar` are None for a plain row, which then takes the sampler's fast way.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    min_p: float = 0.0
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    includes_stop: bool = False
    skips_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    rules: LogitRules | None = None
    grammar: CompiledGrammar | None = None

    def __post_init__(self) -> None:
        assert self.max_tokens >= 1, self.max_tokens
        assert self.temperature >= 0.0, self.temperature
        assert 0.0 < self.top_p <= 1.0, self.top_p
        assert self.top_k >= 0, self.top_k
        assert 0.0 <= self.min_p <= 1.0, self.min_p
        assert 0 <= self.min_tokens <= self.max_tokens, self.min_tokens


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One accepted request: `num_choices` sequences that continue the same prompt.

    `tenant` is who shares the machine with whom, `weight` the tenant's share relative to others.
    Cached prompts are reused only between requests of equal `cache_salt`.
    The answer must be complete `timeout_seconds` after its acceptance; None leaves it all the time.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stack: AdapterStack = BASE_STACK
    num_choices: int = 1
    tenant: str = ""
    cache_salt: str = ""
    weight: float = 1.0
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        assert self.prompt_token_ids, "an empty prompt must be refused before it gets here"
        assert self.num_choices >= 1
        assert self.weight > 0

    @property
    def prompt_cost(self) -> int:
        """What the prompt counts in token rates: twice its tokens when they are scored."""
        is_scored = self.sampling.prompt_logprobs is not None
        return len(self.prompt_token_ids) * (2 if is_scored else 1)

    @property
    def num_scores(self) -> int:
        """Log probabilities of prompt tokens and their alternatives that the answer tells."""
        if self.sampling.prompt_logprobs is None:
            return 0
        return self.num_choices * len(self.prompt_token_ids) * (1 + self.sampling.prompt_logprobs)


class FinishReason(Enum):
    """Why a sequence ended. Every accepted sequence ends with exactly one of these.

    `REFUSED` is an error of the request's own: its grammar went past a limit in mid-answer.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a sequence began: its wait for its first step, and what the prefix cache had of it."""

    queued_seconds: float
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationDelta:
    """What one step added to one choice.

    `text` never splits a UTF-8 character nor a stop string, so it may be empty while tokens are
    held back. `num_tokens` counts the tokens this delta stands for. `finish_reason` is set on the
    last delta of the choice, and only there. `error` is set with `ERROR` and `REFUSED`.
    `stop_reason` is the stop string or stop token that ended the choice. `scores` are those
    of the tokens whose text begins in `text` and of the next prompt positions, when they were asked
    for.
    `beginning` comes once, with the choice's first delta.
    """

    choice: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    error: str | None = None
    stop_reason: str | int | None = None
    scores: Scores = NO_SCORES
    beginning: Beginning | None = None
