"""Measures of answers against references: BLEU, ROUGE, exact match, and a model as judge."""
