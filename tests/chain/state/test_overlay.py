"""Overlays against a plain dictionary that is copied at every checkpoint."""

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avow.chain.state import MemoryStore, Overlay

keys = st.binary(max_size=2)


class OverlayMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.base = {b"": b"empty", b"a": b"1", b"ab": b"2", b"\xff": b"3"}
        self.store.commit(self.store.prepare(self.base), 1)
        self.overlay = Overlay(self.store)
        self.model: dict[bytes, bytes] = dict(self.base)
        self.marks: list[tuple[int, dict[bytes, bytes]]] = []

    @rule(key=keys, value=st.binary(max_size=2))
    def put(self, key: bytes, value: bytes) -> None:
        self.overlay.put(key, value)
        self.model[key] = value

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.overlay.delete(key)
        self.model.pop(key, None)

    @rule()
    def checkpoint(self) -> None:
        self.marks.append((self.overlay.checkpoint(), dict(self.model)))

    @rule()
    def revert(self) -> None:
        if self.marks:
            mark, self.model = self.marks.pop()
            self.overlay.revert(mark)

    @rule()
    def commit(self) -> None:
        if self.marks:
            mark, _ = self.marks.pop()
            self.overlay.commit(mark)
            if mark == 0:
                self.marks.clear()

    @rule(prefix=keys)
    def iterate(self, prefix: bytes) -> None:
        expected = sorted(item for item in self.model.items() if item[0].startswith(prefix))
        assert list(self.overlay.iterate(prefix)) == expected

    @rule(key=keys, value=st.binary(max_size=2))
    def stack(self, key: bytes, value: bytes) -> None:
        upper = Overlay(self.overlay)
        upper.put(key, value)
        assert list(upper.iterate(b"")) == sorted({**self.model, key: value}.items())
        assert self.overlay.get(key) == self.model.get(key)
        upper.apply_to(self.overlay)
        self.model[key] = value

    @invariant()
    def reads_like_the_model(self) -> None:
        changes = self.overlay.changes()
        assert changes == sorted(changes)
        assert {key for key, _ in changes} | set(self.base) >= set(self.model)
        result = dict(self.base)
        for key, value in changes:
            if value is None:
                result.pop(key, None)
            else:
                result[key] = value
        assert result == self.model
        assert dict(self.store.iterate(b"")) == self.base


TestOverlay = OverlayMachine.TestCase
TestOverlay.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_stack_of_overlays_iterates_in_order() -> None:
    class Numbers:
        def get(self, key: bytes) -> bytes | None:
            return b"p" if key in {b"2", b"4"} else None

        def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
            yield from ((key, b"p") for key in (b"2", b"4") if key.startswith(prefix))

    lower = Overlay(Numbers())
    lower.put(b"3", b"l")
    upper = Overlay(lower)
    upper.put(b"1", b"u")
    upper.delete(b"4")
    upper.put(b"5", b"u")
    assert list(upper.iterate(b"")) == [(b"1", b"u"), (b"2", b"p"), (b"3", b"l"), (b"5", b"u")]
    assert upper.get(b"4") is None
    assert lower.get(b"4") == b"p"
