"""The state of the chain: committed in a store, changed through overlays, proven from its tree and history."""

from avow.chain.state.errors import CorruptState, StaleCandidate, StateError, StoreFailed
from avow.chain.state.overlay import Overlay, Reader
from avow.chain.state.sqlite import SqliteStore
from avow.chain.state.store import Candidate, Committed, MemoryStore, Store

__all__ = [
    "Candidate",
    "Committed",
    "CorruptState",
    "MemoryStore",
    "Overlay",
    "Reader",
    "SqliteStore",
    "StaleCandidate",
    "StateError",
    "Store",
    "StoreFailed",
]
