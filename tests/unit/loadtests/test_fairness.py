"""The quiet and the noisy clients ask what they should, together."""

from collections import Counter

from loadtests.fairness import Clients, parse_arguments
from tests.unit.loadtests.fake_server import FakeServer


async def test_a_round_with_noise() -> None:
    arguments = parse_arguments(["--quick", "--noisy-clients", "5", "--seconds", "0.2"])
    arguments.rest = 0.05
    server = FakeServer()
    async with server.listening() as url:
        clients = Clients(url, arguments)
        alone = await clients.round(["quiet-0", "quiet-1"], with_noise=False)
        num_alone = len(server.bodies)
        beside = await clients.round(["quiet-0", "quiet-1"], with_noise=True)
    asked = Counter(body["model"] for body in server.bodies[num_alone:])
    assert alone.noisy == []
    assert sorted(alone.quiet) == sorted(beside.quiet) == ["quiet-0", "quiet-1"]
    assert len(alone.quiet_ttfts) == num_alone > 0
    assert len(beside.noisy) == asked["noisy"] > asked["quiet-0"] > 0
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert len(set(prompts)) == len(prompts)  # nothing repeats, so no prefix cache answers
