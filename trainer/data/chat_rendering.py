"""A conversation as the chat template writes it, and which characters the model has to write.

Templates may do with earlier turns what they like: Qwen3 drops their thinking, Phi-3 puts an end of
text behind the last one, Mistral moves the system text into the last question. So every answer is
rendered as it stood when it was given - the conversation up to it - and those renderings that begin
alike become one row (docs/adr/0029).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.base.plain_content import MARKS, PlainContent
from adapters.base.plain_tools import knows_tools, with_plain_tools
from trainer.data.conversation import ASSISTANT, TOOL, USER, Conversation, Turn, as_messages
from trainer.errors import RowError, TemplateError

Span = tuple[int, int]
"""Characters from the first up to, but without, the second."""

_MARK = MARKS[0]
_SENTINEL = "answerGoesHere"
_TAGS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """Text up to the end token of the answer in turn `last_turn`; `spans` ascend and carry loss."""

    text: str
    spans: tuple[Span, ...]
    last_turn: int


class ChatRenderer:
    """Renders with a transformers tokenizer's `apply_chat_template` and finds the answers in it.

    What it renders holds marks where a message has the text of a special token; `encode` reads it.

    What an answer begins with is what follows the prompt that a server would send; a template with
    `{% generation %}` tags may leave parts of it out. An answer ends with the first of
    `special_tokens` behind its content: the template's own end token or, where the template has
    none (ChatGLM, GLM-4), the token that opens the next turn. Tools that the template doesn't know
    are written as plain text, as a server does it.
    """

    def __init__(self, tokenizer: Any, template_text: str, special_tokens: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._template_text = template_text
        self._special_tokens = special_tokens
        self._content = PlainContent(tokenizer)
        self._has_tags = _TAGS.search(template_text) is not None
        self._knows_tools = knows_tools(template_text)

    def prompt(self, turns: Sequence[Turn], tools: str = "") -> str:
        """The turns, ready for an answer, as a server renders them."""
        turns, tools = self._plain(turns, tools)
        return self._prompt(turns, tools)

    def _prompt(self, turns: Sequence[Turn], tools: str) -> str:
        return self.render_messages(as_messages(turns), tools, add_generation_prompt=True)

    def rows(self, conversation: Conversation) -> tuple[RenderedRow, ...]:
        """One row for each rendering of the history that isn't the beginning of a later one.

        Every answer that is trained carries loss in exactly one row. Raises `TemplateError` when
        the rendering doesn't show where an answer begins or ends, `RowError` for what the template
        has no place for.
        """
        self._check_reasoning(conversation.turns)
        turns, tools = self._plain(conversation.turns, conversation.tools)
        plain = Conversation(tuple(turns), tools)
        # Plain tools may join turns and add one, but answers stay answers in their order.
        places = [i for i, turn in enumerate(conversation.turns) if turn.role == ASSISTANT]
        answers = [i for i, turn in enumerate(turns) if turn.role == ASSISTANT]
        rows: list[RenderedRow] = []
        for place, index in zip(reversed(places), reversed(answers), strict=True):
            if turns[index].is_trained:
                _join(rows, replace(self._answer(plain, index), last_turn=place))
        return tuple(reversed(rows))

    def _plain(self, turns: Sequence[Turn], tools: str) -> tuple[Sequence[Turn], str]:
        """Without tools where the template knows none: they, calls and results as plain text."""
        if self._knows_tools or not (tools or any(t.tool_calls or t.role == TOOL for t in turns)):
            return turns, tools
        messages = with_plain_tools(as_messages(turns), json.loads(tools) if tools else ())
        trained = iter([turn.is_trained for turn in turns if turn.role == ASSISTANT])
        plain = [
            Turn(
                message["role"],
                message["content"],
                name=message.get("name"),
                reasoning=message.get("reasoning_content", ""),
                is_trained=next(trained) if message["role"] == ASSISTANT else True,
            )
            for message in messages
        ]
        return plain, ""

    def _check_reasoning(self, turns: Sequence[Turn]) -> None:
        if "reasoning_content" in self._template_text:
            return
        for index, turn in enumerate(turns):
            if turn.reasoning:
                raise RowError(
                    f"turn {index + 1}: reasoning_content",
                    f"{turn.reasoning[:40]!r}, and this base's chat template has no place for it: "
                    "write it into the content as the model is to write it, or leave it out",
                )

    def _answer(self, conversation: Conversation, index: int) -> RenderedRow:
        turns, tools = conversation.turns[: index + 1], conversation.tools
        text = self._render(turns, tools)
        prompt = self._prompt(turns[:-1], tools)
        head, tail = self._around(turns, tools)
        if turns[-1].tool_calls:
            # Templates put a line break between content and calls only where there is content.
            tail = _common_suffix(text, tail)
        if not text.endswith(tail):
            raise TemplateError(
                f"the chat template writes other text behind an answer, depending on what the "
                f"answer is ({text[-40:]!r} beside {tail!r}), so its end can't be found"
            )
        end_token = self._first_special(tail) or self._next_turn_token(turns, tools)
        content_end = len(text) - len(tail)
        text = text[:content_end] + end_token
        spans = self._tagged(turns, tools, text) if self._has_tags else ((0, len(text)),)
        if text.startswith(prompt):
            spans = tuple((max(start, len(prompt)), stop) for start, stop in spans)
        elif not self._has_tags:
            if not text.startswith(head):
                raise TemplateError(_wrong_prompt(prompt, text))
            text = prompt + self._lead_in(turns, prompt, text) + text[len(head) :]
            spans = ((len(prompt), len(text)),)
        return RenderedRow(text, tuple(s for s in spans if s[0] < s[1]), index)

    def _lead_in(self, turns: Sequence[Turn], prompt: str, text: str) -> str:
        """What stands between prompt and answer, from a conversation of one question.

        Mistral's template writes the system text only into the last turn, so that it is in the
        prompt and gone once there is an answer; the row is then that prompt and the answer.
        """
        short = (Turn(USER, "Q"), replace(turns[-1], content=_SENTINEL, tool_calls=""))
        short_prompt = self._prompt(short[:1], "")
        head, _ = self._around(short, "")
        if not head.startswith(short_prompt):
            raise TemplateError(_wrong_prompt(prompt, text))
        return head[len(short_prompt) :]

    def _around(self, turns: Sequence[Turn], tools: str) -> tuple[str, str]:
        """What the template writes before and behind the content of the last turn."""
        sentinel = self._unused_sentinel(turns[:-1])
        rendered = self._render([*turns[:-1], replace(turns[-1], content=sentinel)], tools)
        if rendered.count(sentinel) != 1:
            raise TemplateError(
                f"the chat template writes an answer {rendered.count(sentinel)} times instead of "
                "once, so loss can't be computed on it"
            )
        head, _, tail = rendered.partition(sentinel)
        return head, tail

    def _first_special(self, text: str) -> str:
        """`text` up to and with the first special token in it; "" when there is none."""
        ends = [
            (position, position + len(token))
            for token in self._special_tokens
            if (position := text.find(token)) >= 0
        ]
        # Of two that begin together the longer one is what the tokenizer reads.
        return text[: min(ends, key=lambda end: (end[0], -end[1]))[1]] if ends else ""

    def _next_turn_token(self, turns: Sequence[Turn], tools: str) -> str:
        sentinel = self._unused_sentinel(turns)
        answer, question = sentinel + "A", sentinel + "Q"
        asked_again = [*turns[:-1], replace(turns[-1], content=answer), Turn(USER, question)]
        _, _, following = self._render(asked_again, tools).partition(answer)
        end_token = self._first_special(following.partition(question)[0])
        if not end_token:
            raise TemplateError(
                f"the chat template ends no answer with a special token (it writes "
                f"{following[:40]!r}), so the model couldn't learn to stop"
            )
        return end_token

    def _tagged(self, turns: Sequence[Turn], tools: str, text: str) -> tuple[Span, ...]:
        """The generation tags of the last turn, stretched to the end of `text`."""
        from transformers.utils.chat_template_utils import render_jinja_template

        given, offered = self._marked(as_messages(turns), tools)
        _, indices = render_jinja_template(
            conversations=[given],
            tools=offered,
            chat_template=self._template_text,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        history = _common_length(self._render(turns[:-1], tools), text)
        spans = [(start, min(stop, len(text))) for start, stop in indices[0] if stop > history]
        if not spans:
            raise TemplateError("the chat template has generation tags, but none around an answer")
        return (*spans[:-1], (spans[-1][0], len(text)))

    def _unused_sentinel(self, turns: Sequence[Turn]) -> str:
        sentinel = _SENTINEL
        while not self._content.is_plain(sentinel) or any(
            sentinel in turn.content or sentinel in turn.tool_calls for turn in turns
        ):
            sentinel += "X"
        return sentinel

    def _render(self, turns: Sequence[Turn], tools: str) -> str:
        return self.render_messages(as_messages(turns), tools, add_generation_prompt=False)

    def render_messages(
        self, messages: list[dict[str, Any]], tools: str, *, add_generation_prompt: bool
    ) -> str:
        """The template over `messages`. Raises `TemplateError` when it refuses them."""
        given, offered = self._marked(messages, tools)
        try:
            text = str(
                self._tokenizer.apply_chat_template(
                    given,
                    tools=offered,
                    chat_template=self._template_text,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=False,
                )
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateError(f"the chat template refuses the roles {roles}: {error}") from error
        return text

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of what `prompt`, `rows` and `render_messages` rendered, or of a part of it."""
        return self._content.encode(text, _MARK if _MARK in text else "")

    def _marked(self, messages: Sequence[Any], tools: str) -> tuple[list[Any], Any]:
        """What the template is given: special tokens in it are marked, to stay text as on a server.

        Raises `TemplateError` where the mark itself is in it.
        """
        given = [list(messages), json.loads(tools) if tools else None]
        if _MARK in json.dumps(given, ensure_ascii=False):
            raise TemplateError("a row holds the noncharacter U+FDD0, which no text has: remove it")
        (marked, offered), _ = self._content.mark(given, _MARK)
        return marked, offered


def _join(rows: list[RenderedRow], answer: RenderedRow) -> None:
    """Add `answer`, given before all of `rows`, to the row that begins with it, or as a new row."""
    for position, row in enumerate(rows):
        if row.text.startswith(answer.text):
            rows[position] = replace(row, spans=answer.spans + row.spans)
            return
    rows.append(answer)


def _common_length(one: str, other: str) -> int:
    """With how many equal characters both begin."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _common_suffix(one: str, other: str) -> str:
    return one[len(one) - _common_length(one[::-1], other[::-1]) :]


def _wrong_prompt(prompt: str, text: str) -> str:
    same = _common_length(prompt, text)
    return (
        f"the chat template's prompt for an answer isn't how the answer is rendered: after "
        f"{text[max(0, same - 40) : same]!r} there is {text[same : same + 24]!r} instead of "
        f"{prompt[same : same + 24]!r}. The adapter would be trained on prompts that no server "
        "sends; give the base a template whose generation prompt begins its answers"
    )
