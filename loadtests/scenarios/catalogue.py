"""The scenarios by name: which users, and how many of each."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """`users` is class name in `loadtests.scenarios.users` -> how many of them."""

    description: str
    users: Mapping[str, int]
    num_adapters: int = 8

    @property
    def num_users(self) -> int:
        return sum(self.users.values())


SCENARIOS: Mapping[str, Scenario] = {
    "steady": Scenario("16 clients, one request after another", {"SteadyUser": 16}),
    "burst": Scenario("quiet, then 48 requests at once, every ten seconds", {"BurstUser": 12}),
    "zipf": Scenario(
        "16 clients over 100 adapters, a few popular, most rare", {"ZipfUser": 16}, num_adapters=100
    ),
    "long-prompts": Scenario(
        "8 clients, and 3 with prompts of 600 words", {"SteadyUser": 8, "LongPromptUser": 3}
    ),
    "slow-readers": Scenario(
        "8 clients beside 16 that read five events a second",
        {"SteadyUser": 8, "SlowReaderUser": 16},
    ),
    "disconnects": Scenario(
        "8 clients beside 12 that hang up in the middle", {"SteadyUser": 8, "DisconnectUser": 12}
    ),
    "churn": Scenario(
        "8 clients while 2 others replace an adapter over and over",
        {"SteadyUser": 8, "ChurnUser": 2},
    ),
    "mixed": Scenario(
        "everything at once, bad requests included",
        {
            "SteadyUser": 6,
            "ZipfUser": 6,
            "BurstUser": 2,
            "LongPromptUser": 1,
            "SlowReaderUser": 4,
            "DisconnectUser": 6,
            "ChurnUser": 1,
            "HostileUser": 2,
        },
        num_adapters=24,
    ),
}
