"""Special tokens that somebody wrote into a message stay text; those of the chat template count.

A chat template puts messages and control tokens into one text, and a tokenizer can't tell whose
`<|im_end|>` it reads: whoever's words are in a message could end it and speak as the system. So the
strings of a conversation are marked before they are rendered (`PlainContent.mark`): behind the
first character of what is, or may become, the text of a special token, a noncharacter is put that
no template knows. After rendering (`PlainContent.encode`) the marks are taken out again, and
stretches of the text with a marked special token are read without special tokens. llama.cpp does
the same by tokenising the pieces of a template and the messages apart; transformers'
`split_special_tokens` knows only all or none.

Where no message holds a special token nothing is marked, and the tokens are those of the
tokenizer's own `encode`. Only tokens that the tokenizer calls special are meant: others that were
added to it, such as Qwen's `<tool_call>`, are words of its vocabulary like any others.
"""

import copy
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
"""Noncharacters: Unicode keeps them for a program's own use; no text should have them."""

_COMPARED = ("role", "type")
"""Keys whose values templates look at rather than write."""

_ANCHOR = "\ufdd0anchor\ufdd1"
"""Stands before a stretch that isn't the text's beginning: some tokenizers read that otherwise."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Text between two special tokens of the template. `is_marked`: it holds others as text."""

    start: int
    end: int
    is_marked: bool


class PlainContent:
    """Knows one transformers fast tokenizer's special tokens. Threads may share it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self._tokens = {token.content: token for token in added if token.special and token.content}
        # The longest first: it is what the tokenizer reads where several begin together.
        texts = sorted(self._tokens, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._longest = max(map(len, texts), default=0)
        self._beginnings = {text[:length] for text in texts for length in range(1, len(text))}
        self._building = threading.Lock()
        self._plain: tuple[Any, int] | None = None

    def prepare(self) -> None:
        """Make now what the first marked text would have to wait for (some 0.3 s)."""
        self._without_specials()

    def mark(self, value: Any, mark: str | None = None) -> tuple[Any, str]:
        """`value` (strings in lists and mappings) with marks, and the mark; "" if none was needed.

        Raises `ValueError` when `mark` (by default one of `MARKS` that isn't there) is in it.
        """
        strings = list(_strings(value))
        if not any(self._places(text) for text in strings):
            return value, ""
        used = [each for each in MARKS if any(each in text for text in strings)]
        chosen = mark or next((each for each in MARKS if each not in used), None)
        if chosen is None or chosen in used:
            raise ValueError(
                "the text holds the noncharacter U+FDD0 beside the text of a special token; "
                "remove it"
            )
        return self._marked(value, chosen), chosen

    def is_plain(self, text: str) -> bool:
        """Whether nothing in `text` would be marked."""
        return not self._places(text)

    def encode(self, text: str, mark: str) -> tuple[int, ...]:
        """Tokens of a rendered text, in which `mark` stands where `mark()` put it; "" for none."""
        pieces = text.split(mark) if mark else [text]
        whole = "".join(pieces)
        marked, length = set(), 0
        for piece in pieces[:-1]:
            length += len(piece)
            marked.add(length - 1)
        ids: list[int] = []
        done = 0
        for stretch in self._stretches(whole, marked):
            if stretch.is_marked:
                ids += self._encode(whole[done : stretch.start])
                ids += self._encode_plain(whole[stretch.start : stretch.end], stretch.start == 0)
                done = stretch.end
        return tuple(ids + self._encode(whole[done:]))

    def _stretches(self, text: str, marked: set[int]) -> list[_Stretch]:
        """What lies between the template's special tokens, less the space that these swallow."""
        if not marked:
            return []
        stretches: list[_Stretch] = []
        start, position, is_marked, swallows = 0, 0, False, False
        while True:
            found = self._any.search(text, position)
            if found is not None and found.start() in marked:
                position, is_marked = found.start() + 1, True
                continue
            end = len(text) if found is None else found.start()
            token = None if found is None else self._tokens[found.group()]
            stretch = text[start:end]
            first = start + (len(stretch) - len(stretch.lstrip()) if swallows else 0)
            last = end - (len(stretch) - len(stretch.rstrip()) if token and token.lstrip else 0)
            if is_marked:
                stretches.append(_Stretch(first, max(first, last), True))
            if found is None or token is None:
                return stretches
            start = position = found.end()
            is_marked, swallows = False, bool(token.rstrip)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        """Tokens of `text` with no special ones among them."""
        tokenizer, anchor = self._without_specials()
        if is_first:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        ids = list(tokenizer.encode(_ANCHOR + text, add_special_tokens=False).ids)
        assert ids[0] == anchor
        return ids[1:]

    def _without_specials(self) -> tuple[Any, int]:
        """A copy that reads special tokens as text: whether it does is the tokenizer's state."""
        with self._building:
            if self._plain is None:
                from tokenizers import AddedToken

                plain = copy.deepcopy(self._tokenizer.backend_tokenizer)
                plain.no_truncation()
                plain.no_padding()
                plain.add_tokens([AddedToken(_ANCHOR, special=False, normalized=False)])
                plain.encode_special_tokens = True
                self._plain = (plain, plain.token_to_id(_ANCHOR))
            return self._plain

    def _places(self, text: str) -> list[int]:
        """Where in `text` a special token begins, or its beginning ends the text."""
        places, found = [], self._any.search(text)
        while found is not None:
            places.append(found.start())
            found = self._any.search(text, found.start() + 1)
        tail = range(max(0, len(text) - self._longest + 1), len(text))
        return places + [at for at in tail if text[at:] in self._beginnings]

    def _word(self, word: Any, mark: str) -> Any:
        """Marked only where all of a special token is in it: templates compare such words."""
        return (
            self._marked(word, mark) if isinstance(word, str) and self._any.search(word) else word
        )

    def _marked(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            cuts = [0, *(place + 1 for place in sorted(set(self._places(value)))), len(value)]
            return mark.join(value[a:b] for a, b in pairwise(cuts))
        if isinstance(value, Mapping):
            return {
                self._word(key, mark): self._word(each, mark)
                if key in _COMPARED
                else self._marked(each, mark)
                for key, each in value.items()
            }
        if isinstance(value, Sequence):
            return [self._marked(each, mark) for each in value]
        return value


def _strings(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _strings(key)
            yield from _strings(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _strings(each)
