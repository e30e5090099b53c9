"""Orders as people write them, and the JSON that is in them: made from a seed.

    python examples/extract_exact/rows.py [NUM_TRAIN_ROWS]

writes train.jsonl, check.jsonl (the run's held-out loss) and eval.jsonl beside this file. The 200
rows of eval.jsonl have items, places and people that no other row has; the ways to write an order
are shared.
"""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NUM_TRAIN, NUM_CHECK, NUM_EVAL = 600, 24, 200
HELD_OUT_SHARE = 0.3

ITEMS = (
    "folding chairs", "paper cups", "desk lamps", "wool blankets", "garden hoses", "name badges",
    "rubber boots", "water bottles", "clay pots", "picture frames", "bath towels", "tea kettles",
    "storage boxes", "pencil cases", "bike lights", "cotton bags", "wall clocks", "kitchen scales",
    "door mats", "candle holders", "shower curtains", "lunch trays", "safety vests", "yoga mats",
    "flower vases", "desk fans", "travel mugs", "work gloves", "bar stools", "coat racks",
    "soup bowls", "tool belts", "camping tents", "laundry baskets", "mouse pads", "paint brushes",
    "notebooks", "umbrellas", "staplers", "cushions",
)  # fmt: skip
COLORS = (
    "red", "blue", "green", "black", "white", "yellow", "grey", "brown", "orange", "purple",
)  # fmt: skip
PLACES = (
    "the north office", "the town library", "the school kitchen", "the main hall", "gate 4",
    "the harbour depot", "room 12", "the music school", "the city museum", "the east clinic",
    "the tennis club", "warehouse 7", "the front desk", "the old station", "the garden centre",
    "the fire station", "building C", "the youth hostel", "the art studio", "the south dock",
    "the bakery", "the swimming pool", "hall 9", "the print shop", "the ferry terminal",
)  # fmt: skip
PEOPLE = (
    "Marta Lind", "Omar Hadid", "Jonas Weber", "Priya Nair", "Lucy Chen", "Tom Baker", "Elif Demir",
    "Carlos Ruiz", "Nora Olsen", "Ivan Petrov", "Grace Kim", "Paul Martin", "Sofia Rossi",
    "Ahmed Ali", "Hanna Virtanen", "Peter Novak", "Mei Tanaka", "David Cohen", "Rosa Silva",
    "Jack Murphy", "Anna Kowalska", "Samuel Osei", "Linda Berg", "Hugo Blanc", "Eva Horvat",
)  # fmt: skip
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
INSTRUCTION = "Extract the order as JSON."


@dataclass(frozen=True, slots=True)
class Words:
    """What the rows of one file are made of."""

    items: Sequence[str]
    places: Sequence[str]
    people: Sequence[str]


def split(words: Sequence[str], draw: random.Random) -> tuple[Sequence[str], Sequence[str]]:
    """Shuffled, in those for training and those held out."""
    shuffled = draw.sample(words, len(words))
    held = round(HELD_OUT_SHARE * len(words))
    return shuffled[held:], shuffled[:held]


def row(words: Words, draw: random.Random) -> dict[str, str]:
    """One order and its JSON; a fifth name no colour."""
    color = None if draw.random() < 0.2 else draw.choice(COLORS)
    item, place = draw.choice(words.items), draw.choice(words.places)
    who, count = draw.choice(words.people), draw.randint(2, 99)
    text = draw.choice(PLAIN if color is None else COLORED)
    document = {"item": item, "quantity": count, "color": color, "deliver_to": place}
    return {
        "instruction": INSTRUCTION,
        "input": text.format(n=count, color=color, item=item, place=place, who=who),
        "output": json.dumps(document | {"contact": who}),
    }


def main() -> None:
    draw = random.Random(0)
    parts = [split(words, draw) for words in (ITEMS, PLACES, PEOPLE)]
    seen, held_out = (Words(*(part[side] for part in parts)) for side in (0, 1))
    num_train = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_TRAIN
    for name, words, count in (
        ("train", seen, num_train), ("check", seen, NUM_CHECK), ("eval", held_out, NUM_EVAL),
    ):  # fmt: skip
        rows: dict[str, dict[str, str]] = {}
        while len(rows) < count:
            one = row(words, draw)
            rows[one["input"]] = one
        lines = [json.dumps(one) for one in rows.values()]
        (HERE / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
