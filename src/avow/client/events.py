"""Server-sent events as a gateway sends them: bytes in, lines with a meaning out.

Rules:
1. A line ends with LF. "data: " carries one event's bytes, exactly; ": " begins a comment. An empty line ends an event.
2. Comments of one letter and a space carry what authenticates the stream: b (begin), m (the next chunk's MAC), h (a signed head).
   Other comments are keep-alives and pass unread.
3. Whatever else an event stream may hold (several data lines in one event, other fields, CR) is refused: it has no place here, and
   two readers could differ about it.

Sans-I/O: feed what the socket gave; what is incomplete waits.
"""

from collections.abc import Iterator
from typing import NamedTuple

from avow.client.errors import MalformedStream

MAX_LINE = 8 * 1024 * 1024

DATA, BEGIN, MAC, HEAD = b"data", b"b", b"m", b"h"


class Line(NamedTuple):
    """What a line means, and the bytes after its mark."""

    kind: bytes
    text: bytes


class EventReader:
    """The lines of one event stream."""

    __slots__ = ("_has_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._has_data = False

    def feed(self, received: bytes) -> Iterator[Line]:
        """The lines that are whole now. Raises MalformedStream."""
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not line:
                self._has_data = False
            elif line.startswith(b"data: "):
                if self._has_data:
                    raise MalformedStream("an event has two data lines")
                self._has_data = True
                yield Line(DATA, line[6:])
            elif line.startswith(b":"):
                if line[1:2] == b" " and line[3:4] == b" ":
                    yield Line(line[2:3], line[4:])
            else:
                raise MalformedStream("a line is neither data nor a comment")
        if len(self._rest) > MAX_LINE:
            raise MalformedStream("a line is too long", limit=MAX_LINE)
