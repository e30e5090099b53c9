"""ROUGE F1, mean over answers: rouge-score for words, rouge-chinese with jieba for Chinese."""

import logging
from collections.abc import Sequence

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge(answers: Sequence[str], references: Sequence[str], language: str) -> dict[str, float]:
    """`rouge1`, `rouge2` and `rougeL`, each 0 to 100. An empty answer scores 0."""
    score = _chinese if language == "zh" else _words
    pairs = [
        score(answer, reference) for answer, reference in zip(answers, references, strict=True)
    ]
    return {kind: 100 * sum(pair[kind] for pair in pairs) / len(pairs) for kind in KINDS}


def _words(answer: str, reference: str) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(list(KINDS), use_stemmer=False).score(reference, answer)
    return {kind: float(scores[kind].fmeasure) for kind in KINDS}


def _chinese(answer: str, reference: str) -> dict[str, float]:
    import jieba
    from rouge_chinese import Rouge

    jieba.setLogLevel(logging.ERROR)
    split = [" ".join(jieba.cut(text)).strip() for text in (answer, reference)]
    if not all(split):
        return dict.fromkeys(KINDS, 0.0)
    scores = Rouge().get_scores(*split)[0]
    return {kind: float(scores[kind.replace("rouge", "rouge-").lower()]["f"]) for kind in KINDS}
