"""Attacks are tallied; a server that answers them with 500 is found out."""

import asyncio
import random

from loadtests.fuzz import Tally, attack
from loadtests.scenarios.wire_abuse import abuse
from tests.unit.loadtests.fake_server import listening


async def _answering(
    status: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readuntil(b"\r\n")
    writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno" % status)
    await writer.drain()


def _attack_often(url: str, tally: Tally) -> None:
    draw = random.Random(5)
    for _ in range(40):
        attack(url, draw, tally)


async def _tally(status: int) -> Tally:
    tally = Tally()
    async with listening(lambda r, w: _answering(status, r, w)) as url:
        await asyncio.to_thread(_attack_often, url, tally)
    return tally


async def test_refusals_are_no_faults() -> None:
    tally = await _tally(400)
    assert sum(tally.statuses.values()) == sum(tally.families.values()) == 40
    assert [fault for fault in tally.faults if ": 400" in fault or ": 5" in fault] == []
    assert len(tally.refusal_seconds) > 20


async def test_a_500_is_a_fault() -> None:
    tally = await _tally(500)
    assert tally.statuses[500] > 20
    assert len(tally.faults) >= tally.statuses[500]


async def test_abuse_of_the_wire_names_itself_and_reads_the_status() -> None:
    async with listening(lambda r, w: _answering(431, r, w)) as url:
        seen = [await asyncio.to_thread(abuse, url, random.Random(seed)) for seed in range(12)]
    assert len({name for name, _ in seen}) > 5
    assert {status for _, status in seen} <= {431, 0}
    assert any(status == 431 for _, status in seen)
