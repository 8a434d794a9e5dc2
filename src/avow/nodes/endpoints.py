"""Several addresses of one chain: which of them is asked.

Rules:
1. One is asked until it does not answer; then the next, round and round. Nothing that one of them says is trusted more for it.
2. One that answers but makes no blocks counts as gone: with a choice, its height is looked at every LOOK_S, and one whose height stays for
   STALE_HEARTBEATS heartbeats is left for the next. Where all stand still, the chain does.

Pure: time is a parameter, in seconds of any clock that only grows.
"""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from avow.errors import InputError

LOOK_S = 5.0
STALE_HEARTBEATS = 5
LEAST_STALE_S = 15.0


@dataclass(slots=True)
class Endpoints:
    """`urls`: one or more, as a text separated by commas gives them."""

    urls: tuple[str, ...]
    moves: int = 0
    _at: int = 0
    _looked_s: float = field(default=float("-inf"))
    _height: int = -1
    _since_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Endpoints":
        """Raises InputError."""
        urls = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if not urls:
            raise InputError("there is no address of a chain")
        return cls(urls)

    @staticmethod
    def is_loopback(url: str) -> bool:
        """Whether an address can only be this machine. Names other than localhost are not looked up."""
        host = (urlsplit(url).hostname or "").rstrip(".")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        return self.urls[self._at]

    def next(self, failed: str) -> None:
        """`failed` does not answer; nothing happens when another is asked already."""
        if failed == self.url and len(self.urls) > 1:
            self._at = (self._at + 1) % len(self.urls)
            self._height = -1
            self._looked_s = float("-inf")
            self.moves += 1

    def look_due(self, now_s: float) -> bool:
        """Whether its height should be looked at now (rule 2); true once per LOOK_S."""
        if len(self.urls) == 1 or now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def seen(self, height: int, heartbeat_ms: int, now_s: float) -> None:
        """What a look found."""
        if height != self._height:
            self._height, self._since_s = height, now_s
        elif now_s - self._since_s > max(LEAST_STALE_S, STALE_HEARTBEATS * heartbeat_ms / 1000):
            self.next(self.url)
