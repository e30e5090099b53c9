"""Orders as people write them, and the JSON that is in them: made from a seed.

    python examples/extract_exact/rows.py [NUM_TRAIN_ROWS]

writes train.jsonl, check.jsonl (the run's held-out loss) and eval.jsonl beside this file. Items,
places and people of the 200 rows of eval.jsonl are made of words that no other row has; the ways
to write an order, the colours and the numbers are shared.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from words import COLORS, Words, split_words

HERE = Path(__file__).resolve().parent
NUM_TRAIN, NUM_CHECK, NUM_EVAL = 1000, 24, 200
NO_COLOR_SHARE = 0.2

COLORED = (
    "Please send {n} {color} {item} to {place}. Thanks, {who}",
    "Hello, this is {who}. We need {n} {item} in {color} at {place}.",
    "{who} here: {n} {color} {item} for {place}, as soon as you can.",
    "Could you deliver {n} {item} ({color}) to {place}? Ask for {who}.",
    "Order from {who}: {n} x {item}, colour {color}, deliver to {place}.",
    "For {place} we want {color} {item}, {n} of them. Regards, {who}",
)
PLAIN = (
    "Please send {n} {item} to {place}. Any colour is fine. Thanks, {who}",
    "Hello, this is {who}. We need {n} {item} at {place}.",
    "{who} here: {n} {item} for {place}, the colour doesn't matter.",
    "Could you deliver {n} {item} to {place}? Ask for {who}.",
)
SYSTEM = "Extract the order as JSON with the keys item, quantity, color, deliver_to, contact."


def row(words: Words, draw: random.Random) -> dict[str, Any]:
    """One order and its JSON; a fifth name no colour."""
    color = None if draw.random() < NO_COLOR_SHARE else draw.choice(COLORS)
    item, place, who = words.item(draw), words.place(draw), words.person(draw)
    count = draw.randint(2, 99)
    text = draw.choice(PLAIN if color is None else COLORED)
    order = text.format(n=count, color=color, item=item, place=place, who=who)
    answer = {"item": item, "quantity": count, "color": color, "deliver_to": place, "contact": who}
    turns = (("system", SYSTEM), ("user", order), ("assistant", json.dumps(answer)))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main() -> None:
    draw = random.Random(0)
    seen, held_out = split_words(draw)
    num_train = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_TRAIN
    for name, words, count in (
        ("eval", held_out, NUM_EVAL), ("check", seen, NUM_CHECK), ("train", seen, num_train),
    ):  # fmt: skip
        lines: dict[str, None] = {}
        while len(lines) < count:
            lines[json.dumps(row(words, draw))] = None
        (HERE / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
