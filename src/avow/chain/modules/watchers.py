"""The network's appointed watchers: who re-executes the posted share of all optimistic statements, and may demand what is withheld.

The genesis names the first; governance appoints and dismisses. One record per address, so that a reader can prove who was appointed.
"""

from avow.chain.errors import Code, Refused
from avow.chain.genesis import Genesis
from avow.chain.host import Host, Storage

WATCHER_PREFIX = b"disputes/watcher/"


def write_genesis(storage: Storage, genesis: Genesis) -> None:
    for watcher in genesis.optimistic.watchers:
        storage.put(WATCHER_PREFIX + watcher, b"\x01")


def appoint(host: Host, watcher: bytes) -> None:
    _check_governance(host)
    if is_appointed(host, watcher):
        raise Refused(Code.WATCHER_APPOINTED)
    host.store(WATCHER_PREFIX + watcher, b"\x01")
    host.log("WatcherAppointed", watcher)


def dismiss(host: Host, watcher: bytes) -> None:
    _check_governance(host)
    if not is_appointed(host, watcher):
        raise Refused(Code.WATCHER_UNKNOWN)
    host.store(WATCHER_PREFIX + watcher, None)
    host.log("WatcherDismissed", watcher)


def is_appointed(host: Host, watcher: bytes) -> bool:
    return host.load(WATCHER_PREFIX + watcher) is not None


def _check_governance(host: Host) -> None:
    if host.caller != host.genesis.governance:
        raise Refused(Code.NOT_AUTHORISED)
