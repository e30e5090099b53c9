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


ONSETS = (
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr",
    "qu", "r", "s", "sh", "st", "t", "tr", "v", "w", "y", "z", "",
)  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou", "y")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "nd", "rt", "ck", "ng", "x", "lt")


@dataclass(frozen=True, slots=True)
class Words:
    """What the names in the rows of one file are made of.

    `invented_share` of the words are made up on the spot instead: of some dozens of words a model
    learns how each goes on, of a word that it never sees again only how to copy it.
    """

    qualities: Sequence[str] = QUALITIES
    things: Sequence[str] = THINGS
    sites: Sequence[str] = SITES
    buildings: Sequence[str] = BUILDINGS
    numbered: Sequence[str] = NUMBERED
    streets: Sequence[str] = STREETS
    first_names: Sequence[str] = FIRST_NAMES
    last_names: Sequence[str] = LAST_NAMES
    invented_share: float = 0.0

    def item(self, draw: random.Random) -> str:
        """ "umbrellas" or "folding chairs"."""
        thing = self._word(self.things, draw)
        return thing if draw.random() < 0.2 else f"{self._word(self.qualities, draw)} {thing}"

    def place(self, draw: random.Random) -> str:
        """ "the north office", "gate 4" or "12 Mill Street"."""
        kind = draw.choice(("site", "site", "number", "street"))
        if kind == "site":
            return f"the {self._word(self.sites, draw)} {self._word(self.buildings, draw)}"
        number = draw.randint(2, 40)
        if kind == "number":
            return f"{self._word(self.numbered, draw)} {number}"
        return f"{number} {self._word(self.streets, draw)} Street"

    def person(self, draw: random.Random) -> str:
        return f"{self._word(self.first_names, draw)} {self._word(self.last_names, draw)}"

    def _word(self, known: Sequence[str], draw: random.Random) -> str:
        """One of `known`, or an invented one that looks like it."""
        word = draw.choice(known)
        if not self.invented_share or draw.random() >= self.invented_share:
            return word
        invented = "".join(
            draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS)
            for _ in range(draw.randint(1, 3))
        )
        invented += "s" if known is self.things else ""
        return invented.title() if word.istitle() else invented


def split_words(draw: random.Random, invented_share: float) -> tuple[Words, Words]:
    """Words for training, some of them invented, and words that only held-out rows have."""
    seen, held_out = {}, {}
    for name in (field.name for field in fields(Words) if field.name != "invented_share"):
        words = getattr(Words(), name)
        shuffled = draw.sample(words, len(words))
        held = round(HELD_OUT_SHARE * len(words))
        held_out[name], seen[name] = shuffled[:held], shuffled[held:]
    return Words(**seen, invented_share=invented_share), Words(**held_out)
