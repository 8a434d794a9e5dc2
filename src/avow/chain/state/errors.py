"""What can go wrong with stored state. None of these is a result of a transaction: each stops the node."""

from avow.errors import AvowError


class StateError(AvowError):
    """The node's own store failed."""

    code = "state_failed"


class CorruptState(StateError):
    """Stored state contradicts itself."""

    code = "state_corrupt"


class StaleCandidate(StateError):
    """A prepared change was made for another state than the one it is to be committed on."""

    code = "state_stale_candidate"


class StoreFailed(StateError):
    """The database could not read or write: a full disk, a lost file, another process."""

    code = "store_failed"


class BadSnapshot(StateError):
    """A snapshot, or a part of one, is not of the state that it says."""

    code = "bad_snapshot"
