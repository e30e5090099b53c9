"""Adapters that an operator keeps on the device."""

from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.stack import BASE_STACK, AdapterStack, StackMember
from server.scheduling.slots import AdapterSlots
from tests.fakes.runner import FakeHostAdapter
from tests.unit.server.scheduling.world import ADAPTERS, SMALL, World


def test_a_kept_adapter_outlives_all_that_are_used_after_it() -> None:
    slots = AdapterSlots(8)
    assert slots.keep("a", 2) == (0, 1)
    for name in "bcdefg":
        slots.pin({name: 2})
        slots.unpin({name: 2})
    assert "a" in slots.resident()
    assert slots.keep("a", 2) is None, "nothing to fill"
    slots.let_go("a")
    for name in "bcd":
        slots.pin({name: 2})
        slots.unpin({name: 2})
    slots.pin({"h": 2})
    assert "a" not in slots.resident()
    slots.check_integrity({"h": 1})


def test_what_is_kept_leaves_others_their_share() -> None:
    slots = AdapterSlots(8)
    assert slots.max_kept_pages == 6
    slots.keep("a", 4)
    assert not slots.can_keep("b", 3)
    assert slots.can_keep("a", 6), "its own pages count once"
    slots.keep("b", 2)
    slots.let_go("a")
    assert (slots.kept, slots.num_kept_pages) == (("b",), 2)


def test_one_that_finds_no_page_comes_with_its_next_use() -> None:
    slots = AdapterSlots(4)
    slots.pin({"running": 3})
    assert slots.keep("a", 2) is None
    assert "a" not in slots.resident()
    slots.unpin({"running": 3})
    slots.pin({"a": 2})
    slots.unpin({"a": 2})
    slots.pin({"other": 2})
    assert "a" in slots.resident()


def test_it_gives_way_only_where_nothing_else_runs() -> None:
    slots = AdapterSlots(8)
    slots.keep("a", 4)
    slots.pin({"running": 2})
    assert not slots.can_pin({"large": 6}), "the running one will give its pages back"
    slots.unpin({"running": 2})
    assert slots.can_pin({"large": 6})
    slots.pin({"large": 6})
    assert "a" not in slots.resident()
    assert slots.kept == ("a",), "it comes back with its next use"
    slots.check_integrity({"large": 1})


def test_a_kept_one_is_not_retired() -> None:
    slots = AdapterSlots(4)
    slots.keep("a", 1)
    slots.retire("a")
    assert "a" in slots.resident()
    slots.let_go("a")
    slots.retire("a")
    assert "a" not in slots.resident()


@settings(max_examples=40)
@given(st.data())
def test_sequences_end_whatever_is_kept_meanwhile(data: st.DataObject) -> None:
    """Stacks up to the whole bank, while keeps come and go."""
    world = World()
    slots = world.scheduler.slots
    wanted = {}
    for _ in range(data.draw(st.integers(1, 8))):
        chosen = data.draw(st.lists(st.sampled_from(ADAPTERS), max_size=3, unique=True))
        while sum(a.num_pages for a in chosen) > SMALL.num_adapter_pages:
            chosen.pop()
        stack = AdapterStack(tuple(StackMember(a) for a in chosen)) if chosen else BASE_STACK
        wanted[world.submit((8, 9, 10), stack, data.draw(st.integers(1, 6)))] = stack
    for _ in range(400):
        match data.draw(st.sampled_from(("step", "step", "keep", "let go"))):
            case "keep":
                adapter = data.draw(st.sampled_from(ADAPTERS))
                if slots.can_keep(adapter.digest, adapter.num_pages):
                    pages = slots.keep(adapter.digest, adapter.num_pages)
                    if pages is not None:
                        kept = FakeHostAdapter(adapter.digest, adapter.num_pages)
                        world.runner.place_adapter(pages, kept)
            case "let go":
                slots.let_go(data.draw(st.sampled_from(ADAPTERS)).digest)
            case _:
                if world.scheduler.has_work:
                    assert world.step(), "what waits can always run"
        world.scheduler.check_integrity()
        if not world.scheduler.has_work:
            break
    while world.scheduler.has_work:
        assert world.step()
    assert set(world.ended) == set(wanted)
