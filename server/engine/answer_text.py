"""Turns the tokens of one choice into the pieces of text that may be sent."""

from collections import deque
from dataclasses import dataclass, replace

from server.core.logprobs import NO_SCORES, Scores, TokenLogprobs
from server.core.ports import TokenStream
from server.core.request import FinishReason, SamplingParams
from server.engine.stop import StopMatcher
from server.scheduling.plan import SequenceUpdate


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that is safe to send, with the scores of the tokens that begin in it.

    The prompt's scores are the update's own; so is `finish_reason`, unless a stop string was
    reached: STOP.
    """

    text: str
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    scores: Scores = NO_SCORES


class AnswerText:
    """Detokenises, looks for stop strings, and keeps log probabilities in step with the text.

    A token's log probabilities leave with the piece in which its own text begins, so that in every
    prefix of a stream, and in the whole, tokens and text tell the same story: no entry for an end
    token that has no text, none for what lies behind a stop string.
    """

    def __init__(self, stream: TokenStream, sampling: SamplingParams) -> None:
        self._stream = stream
        self._stop = StopMatcher(sampling.stop, includes_stop=sampling.includes_stop)
        self._sampling = sampling
        self._is_plain = not sampling.stop and sampling.logprobs is None
        self._num_tokens = 0
        self._num_chars_in = 0
        self._num_chars_out = 0
        self._waiting: deque[TokenLogprobs] = deque()

    def push(self, update: SequenceUpdate) -> TextPiece:
        """The piece that one update of the scheduler makes."""
        if self._is_plain and update.finish_reason is None and update.token_id is not None:
            return TextPiece(self._stream.push(update.token_id), None, scores=update.scores)
        reason, text, is_stopped = update.finish_reason, "", False
        stop_reason: str | int | None = None
        if update.token_id is not None:
            self._num_tokens += 1
            if update.token_id in self._sampling.stop_token_ids and update.is_end_token:
                stop_reason = update.token_id
            if not update.is_end_token or self._shows(update.token_id):
                text, is_stopped = self._push_token(update.token_id, update.scores)
        if reason is not None and not is_stopped:
            held = self._stream.flush()
            self._num_chars_in += len(held)
            rest, is_stopped = self._stop.push(held)
            text += rest if is_stopped else rest + self._stop.flush()
        if is_stopped:
            reason, stop_reason = FinishReason.STOP, self._stop.matched
        if not self._waiting:
            self._num_chars_out += len(text)
            return TextPiece(text, reason, stop_reason, Scores(prompt=update.scores.prompt))
        is_whole = reason is not None and not is_stopped
        released = self._released(len(text), is_whole=is_whole)
        return TextPiece(text, reason, stop_reason, Scores(released, update.scores.prompt))

    def _shows(self, end_token_id: int) -> bool:
        return self._sampling.includes_stop and end_token_id in self._sampling.stop_token_ids

    def _push_token(self, token_id: int, scores: Scores) -> tuple[str, bool]:
        piece = self._stream.push(token_id)
        for entry in scores.drawn:
            self._waiting.append(replace(entry, offset=self._num_chars_in))
        self._num_chars_in += len(piece)
        if self._num_tokens <= self._sampling.min_tokens:
            return piece, False
        return self._stop.push(piece)

    def _released(self, num_chars: int, *, is_whole: bool) -> tuple[TokenLogprobs, ...]:
        self._num_chars_out += num_chars
        released: list[TokenLogprobs] = []
        while self._waiting and (is_whole or self._waiting[0].offset < self._num_chars_out):
            released.append(self._waiting.popleft())
        return tuple(released)
