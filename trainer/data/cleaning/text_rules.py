"""What text from web pages brings along: control characters and HTML."""

import html
import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\u2028\u2029]")
_LINE_ENDS = re.compile(r"\r\n?|\u2028|\u2029|\x0b|\x0c")

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
"""Markdown code, fenced or inline: HTML in there is what the row is about."""

_BLOCK_TAGS = r"p|div|br|hr|ul|ol|li|table|thead|tbody|tr|h[1-6]|pre|blockquote|section|article"
_INLINE_TAGS = r"span|a|b|i|u|em|strong|code|td|th|font|img|button|svg|path|small|sub|sup|center"
_BREAK = re.compile(rf"</?(?:{_BLOCK_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_INLINE = re.compile(rf"</?(?:{_INLINE_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-f]{1,5}|nbsp|amp|lt|gt|quot|apos|mdash|ndash|hellip);")
_DOCUMENT = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_MANY_BREAKS = re.compile(r"[ \t]*\n(?:[ \t]*\n){2,}")


def has_control_characters(text: str) -> bool:
    """Whether `text` has characters that are no text: C0 and C1 but for tab and line feed."""
    return _CONTROL.search(text) is not None


def without_control_characters(text: str) -> str:
    """`text` with every line end as a line feed and the other control characters gone."""
    return _CONTROL.sub("", _LINE_ENDS.sub("\n", text))


def has_html_leftovers(text: str) -> bool:
    """Whether tags or entities stand in prose, outside of Markdown code.

    A whole HTML document is no leftover: it is what was asked for.
    """
    if _DOCUMENT.match(text):
        return False
    return any(
        _BREAK.search(prose) or _INLINE.search(prose) or _ENTITY.search(prose)
        for prose in _CODE.split(text)[::2]
    )


def without_html_leftovers(text: str) -> str:
    """`text` as a reader of the page saw it; Markdown code and whole documents stay as they are."""
    if _DOCUMENT.match(text):
        return text
    pieces = _CODE.split(text)
    # Every second piece is code.
    pieces[::2] = [_prose(piece) for piece in pieces[::2]]
    return _MANY_BREAKS.sub("\n\n", "".join(pieces)).strip()


def _prose(text: str) -> str:
    return html.unescape(_INLINE.sub("", _BREAK.sub("\n", text))).replace("\xa0", " ")
