"""The words of the orders, and which of them only held-out rows may use."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

HELD_OUT_SHARE = 0.3
COLORS = (
    "red", "blue", "green", "black", "white", "yellow", "grey", "brown", "orange", "purple",
)  # fmt: skip
QUALITIES = (
    "folding", "paper", "wool", "garden", "rubber", "clay", "wooden", "cotton", "steel", "plastic",
    "travel", "camping", "electric", "glass", "linen", "leather", "outdoor", "padded", "round",
    "square", "small", "large", "heavy", "portable", "ceramic", "striped", "waterproof", "spare",
    "canvas", "bamboo", "velvet", "enamel", "magnetic", "hanging", "quilted", "narrow",
)  # fmt: skip
THINGS = (
    "chairs", "cups", "lamps", "blankets", "hoses", "badges", "boots", "bottles", "pots", "frames",
    "towels", "kettles", "boxes", "cases", "bags", "clocks", "scales", "mats", "candles",
    "curtains", "trays", "vests", "vases", "fans", "mugs", "gloves", "stools", "racks", "bowls",
    "belts", "tents", "baskets", "brushes", "notebooks", "umbrellas", "staplers", "cushions",
    "ladders", "pillows", "buckets", "shelves", "benches", "aprons", "plates", "spoons", "hammers",
    "whistles", "helmets", "napkins", "lanterns", "rulers", "pens", "folders", "magnets", "ropes",
    "drawers", "mirrors", "jackets", "scarves", "teapots",
)  # fmt: skip
SITES = (
    "north", "east", "south", "west", "town", "city", "school", "harbour", "music", "tennis", "old",
    "new", "main", "upper", "lower", "village", "railway", "river", "central", "county", "hill",
    "market", "forest", "island", "castle", "airport", "lakeside", "orchard", "abbey", "mountain",
)  # fmt: skip
BUILDINGS = (
    "office", "library", "kitchen", "hall", "depot", "museum", "clinic", "club", "station",
    "centre", "hostel", "studio", "dock", "bakery", "pool", "shop", "theatre", "gallery", "cafe",
    "gym", "hotel", "chapel", "stadium", "nursery", "hospital", "workshop", "laundry", "canteen",
    "reception", "warehouse",
)  # fmt: skip
NUMBERED = (
    "room", "wing", "gate", "building", "cabin", "unit", "lot", "floor", "platform", "block",
    "stand", "bay",
)  # fmt: skip
STREETS = (
    "Mill", "Church", "Park", "Willow", "Bridge", "Elm", "Queen", "King", "Victoria", "Bishop",
    "Oak", "Albert", "Meadow", "Regent", "Spring", "Windsor", "Maple", "Cedar", "Rose",
    "Linden", "Crown", "Temple", "Union", "Silver",
)  # fmt: skip
FIRST_NAMES = (
    "Marta", "Omar", "Jonas", "Priya", "Lucy", "Tom", "Elif", "Carlos", "Nora", "Ivan", "Grace",
    "Paul", "Sofia", "Ahmed", "Hanna", "Peter", "Mei", "David", "Rosa", "Jack", "Anna", "Samuel",
    "Linda", "Hugo", "Eva", "Yusuf", "Clara", "Diego", "Ingrid", "Kofi", "Leila", "Marco", "Naomi",
    "Oscar", "Petra", "Rahul", "Sven", "Tara", "Viktor", "Wanda", "Zoe", "Bruno", "Chloe", "Dario",
    "Emma", "Felix", "Greta", "Henry", "Irene", "Julian", "Karim", "Laura", "Milan", "Nina", "Otto",
    "Rita", "Simon", "Teresa", "Ulrich", "Vera",
)  # fmt: skip
LAST_NAMES = (
    "Lind", "Hadid", "Weber", "Nair", "Chen", "Baker", "Demir", "Ruiz", "Olsen", "Petrov", "Kim",
    "Martin", "Rossi", "Ali", "Virtanen", "Novak", "Tanaka", "Cohen", "Silva", "Murphy", "Kowalska",
    "Osei", "Berg", "Blanc", "Horvat", "Aydin", "Brandt", "Castillo", "Dubois", "Eriksen",
    "Ferrari", "Gupta", "Hughes", "Ibrahim", "Jansen", "Kovacs", "Lopez", "Moreau", "Nguyen",
    "Okafor", "Popescu", "Quinn", "Romero", "Schmidt", "Torres", "Umar", "Vargas", "Walker", "Xu",
    "Yilmaz", "Zimmer", "Almeida", "Bauer", "Costa", "Duarte", "Egger", "Fischer", "Grant",
    "Hansen", "Ito",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """What the names in the rows of one file are made of."""

    qualities: Sequence[str] = QUALITIES
    things: Sequence[str] = THINGS
    sites: Sequence[str] = SITES
    buildings: Sequence[str] = BUILDINGS
    numbered: Sequence[str] = NUMBERED
    streets: Sequence[str] = STREETS
    first_names: Sequence[str] = FIRST_NAMES
    last_names: Sequence[str] = LAST_NAMES

    def item(self, draw: random.Random) -> str:
        """ "umbrellas" or "folding chairs"."""
        thing = draw.choice(self.things)
        return thing if draw.random() < 0.2 else f"{draw.choice(self.qualities)} {thing}"

    def place(self, draw: random.Random) -> str:
        """ "the north office", "gate 4" or "12 Mill Street"."""
        kind = draw.choice(("site", "site", "number", "street"))
        if kind == "site":
            return f"the {draw.choice(self.sites)} {draw.choice(self.buildings)}"
        number = draw.randint(2, 40)
        if kind == "number":
            return f"{draw.choice(self.numbered)} {number}"
        return f"{number} {draw.choice(self.streets)} Street"

    def person(self, draw: random.Random) -> str:
        return f"{draw.choice(self.first_names)} {draw.choice(self.last_names)}"


def split_words(draw: random.Random) -> tuple[Words, Words]:
    """Words for training, and words that only held-out rows have."""
    seen, held_out = {}, {}
    for field in fields(Words):
        words = getattr(Words(), field.name)
        shuffled = draw.sample(words, len(words))
        held = round(HELD_OUT_SHARE * len(words))
        held_out[field.name], seen[field.name] = shuffled[:held], shuffled[held:]
    return Words(**seen), Words(**held_out)
