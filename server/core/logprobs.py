"""What the model thought of tokens: their log probabilities and the best alternatives."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities (natural) at one position, from the model's raw logits.

    Raw: before temperature, penalties, biases, masks and every other rule of the request. `rank` of
    the token is 1 for the most probable. `top` holds (token id, log probability), best first; ties
    go to the lower id. `offset` is where the token's text begins, in characters of the answer.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """The log probabilities of a stretch of one choice, as they were asked for.

    `drawn` are those of generated tokens, `prompt` those of the next prompt positions (the first
    token of a prompt has none). Carried whole from the sampler to the answer.
    """

    drawn: tuple[TokenLogprobs, ...] = ()
    prompt: tuple[TokenLogprobs, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.drawn or self.prompt)


NO_SCORES = Scores()


@dataclass(frozen=True, slots=True)
class ScoresAsked:
    """How many alternatives to tell for each drawn and each prompt token; None tells nothing."""

    drawn: int | None = None
    prompt: int | None = None


def joined(parts: Iterable[Scores]) -> Scores:
    """The scores of one choice's parts, in order, as those of the whole."""
    parts = [part for part in parts if part]
    return Scores(
        tuple(chain.from_iterable(part.drawn for part in parts)),
        tuple(chain.from_iterable(part.prompt for part in parts)),
    )


def step_scores(
    drawn: Mapping[int, TokenLogprobs], prompts: Mapping[int, tuple[TokenLogprobs, ...]]
) -> dict[int, Scores]:
    """What one step brought, by sequence id: of each drawn token, and of a row's prompt tokens."""
    return {
        sequence_id: Scores(
            (drawn[sequence_id],) if sequence_id in drawn else (), prompts.get(sequence_id, ())
        )
        for sequence_id in (*drawn, *(i for i in prompts if i not in drawn))
    }
