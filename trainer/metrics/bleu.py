"""BLEU over all answers, by sacreBLEU."""

from collections.abc import Sequence


def bleu(answers: Sequence[str], references: Sequence[str], language: str) -> float:
    """Corpus BLEU, 0 to 100; Chinese is split by sacreBLEU's `zh` tokeniser."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="zh" if language == "zh" else "13a")
    return float(metric.corpus_score(list(answers), [list(references)]).score)
