"""Which language's words a metric has to split."""

import re
from collections.abc import Iterable

_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
_CHINESE_SHARE = 0.3


def detect_language(texts: Iterable[str]) -> str:
    """`zh` when at least 30 % of all letters are Chinese characters, else `en`."""
    chinese = letters = 0
    for text in texts:
        chinese += len(_CHINESE.findall(text))
        letters += len(_LETTER.findall(text))
    return "zh" if letters and chinese >= _CHINESE_SHARE * letters else "en"
