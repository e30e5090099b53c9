"""What the model thought of one token: its log probability and the best alternatives."""

from dataclasses import dataclass


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
