"""The hashes kept within a page are those that its slots give, however it was changed."""

from hypothesis import given
from hypothesis import strategies as st

from avow.chain.state import MemoryStore
from avow.chain.state import store as store_module
from avow.chain.state.page import SLOTS, Page, decode_page, empty_page, range_hash

digests = st.binary(min_size=32, max_size=32)
slots = st.none() | digests | st.tuples(digests, digests)
changes = st.lists(st.tuples(st.integers(0, SLOTS - 1), slots), max_size=10)


def full(page):
    return range_hash(page.slots, 0, SLOTS)


@given(st.lists(slots, min_size=SLOTS, max_size=SLOTS), st.lists(changes, max_size=5))
def test_a_changed_page_hashes_like_a_new_one(first, rounds):
    page = Page(first)
    assert page.hash() == full(page)
    for batch in rounds:
        before, kept = page, (page.slots.copy(), page.encoded(), page.hash())
        page = page.copy()
        for place, slot in batch:
            page.set(place, slot)
        assert page.hash() == full(page) == decode_page(page.encoded()).hash()
        assert (before.slots, before.encoded(), before.hash()) == kept
    assert decode_page(page.encoded()).slots == page.slots


def test_an_empty_page_is_the_empty_subtree():
    assert empty_page().hash() == bytes(32)


@given(st.lists(st.dictionaries(st.integers(0, 60), st.none() | st.binary(max_size=3), max_size=12), max_size=8))
def test_a_store_without_room_for_pages_has_the_same_roots(blocks):
    usual, cramped = MemoryStore(), MemoryStore()
    for height, block in enumerate(blocks, 1):
        values = {b"key/%d" % number: value for number, value in block.items()}
        usual.commit(usual.prepare(values), height)
        room, store_module.KEPT_PAGES = store_module.KEPT_PAGES, 1
        try:
            cramped.commit(cramped.prepare(values), height)
        finally:
            store_module.KEPT_PAGES = room
        assert usual.committed == cramped.committed
    usual.check()
    cramped.check()
