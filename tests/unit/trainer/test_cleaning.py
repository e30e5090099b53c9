"""Cleaning rules, each counted."""

from collections import Counter

from trainer.data.cleaning import Rule, clean_rows, without_overlap
from trainer.data.conversation import Conversation, Turn


def talk(*pairs: str) -> Conversation:
    """`user:hi` style turns."""
    return Conversation(tuple(Turn(*pair.split(":", 1)) for pair in pairs))


def test_each_rule_is_counted() -> None:
    good = talk("user:a", "assistant:b")
    clean = clean_rows(
        [
            good,
            talk("system:s", "user:a", "assistant:b", "user:c", "assistant:d"),
            None,
            Conversation(()),
            talk("user:a", "assistant:  "),
            talk("assistant:b", "user:a", "assistant:b"),
            talk("user:a", "user:b", "assistant:c"),
            talk("user:a"),
            talk("system:s"),
            talk("tool:a", "assistant:b"),
            talk("user: a\n", "assistant:b"),
            talk("user:x", "assistant:y", "user:z"),
        ]
    )
    assert [len(c.turns) for c in clean.conversations] == [2, 5, 2]
    assert clean.conversations[2] == talk("user:x", "assistant:y")
    assert clean.counts == {
        Rule.UNREADABLE: 2,
        Rule.EMPTY_TURN: 1,
        Rule.WRONG_ORDER: 5,
        Rule.TRIMMED: 1,
        Rule.DUPLICATE: 1,
        Rule.UNANSWERED: 1,
    }


def test_overlap_is_by_prompt_and_leaves_the_held_out_row() -> None:
    train = [talk("user:a", "assistant:1"), talk("user:b", "assistant:2")]
    counts: Counter[Rule] = Counter()
    kept = without_overlap(train, [talk("user:a", "assistant:other")], counts)
    assert kept == (train[1],)
    assert counts == {Rule.OVERLAP: 1}
