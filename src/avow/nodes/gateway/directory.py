"""Which node serves which program by which method, and the connections to the nodes.

A link keeps one connection to one node: it connects, asks what the node offers, notices a lost connection, and connects again
with growing pauses. A request is routed to the connected node that offers its program and method and works on the fewest.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from avow.errors import AvowError
from avow.nodes.gateway.errors import (
    MethodNotOffered,
    NodeNotOffered,
    NoNode,
    TooManyRequests,
    UnknownModel,
    WrongKind,
)
from avow.nodes.jobs import Answer, Begin, Chunks, Head, Job, NodeDescription, NodeStatus, ProgramDescription
from avow.receipt.statement import Method

Event = Begin | Chunks | Head | Answer
_KNOWN_METHODS = frozenset(Method)
log = logging.getLogger("avow.gateway")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
UNMET_S = 30.0
"""For how long after the gateway's start a node that it has not met yet may be the one that offers what is asked for."""
REFRESH_S = 1.0
"""How often a node is asked anew what it offers: prices and keys change."""


class Node(Protocol):
    """What a gateway needs of avow.nodes.node_client.NodeClient."""

    on_lost: Callable[[], None] | None

    @property
    def closed(self) -> bool: ...

    async def connect(self, address: str) -> None: ...

    async def close(self) -> None: ...

    async def describe(self) -> NodeDescription: ...

    def begin(self, job: Job, done: Callable[[Answer | AvowError], None]) -> Callable[[], None]: ...

    async def infer(self, job: Job) -> Answer: ...

    def stream(self, job: Job) -> AsyncGenerator[list[Event], None]: ...

    async def opening(self, id: bytes, asker: bytes | None) -> bytes: ...  # noqa: A002

    async def demand(self, id: bytes, asker: bytes | None, demand: bytes) -> bytes: ...  # noqa: A002

    async def receipt(self, id: bytes, secret: bytes | None) -> bytes: ...  # noqa: A002

    async def wait_settled(self, id: bytes, timeout_ms: int) -> bytes: ...  # noqa: A002

    async def status(self) -> NodeStatus: ...


class Link:
    """The connection to one node, kept up by `run`."""

    def __init__(self, address: str, connect: Callable[[], Node], limit: int, changed: Callable[[], None]) -> None:
        self.address = address
        self.limit = limit
        self.in_flight = 0
        self.description: NodeDescription | None = None
        self.status: NodeStatus | None = None
        """As it was when it was asked last (settled.py)."""
        self._make = connect
        self._changed = changed
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """The connected node. Raises NoNode."""
        node = self._node
        if node is None or node.closed:
            raise NoNode("the inference node is not connected", hint="it is tried again by itself")
        return node

    @property
    def connected(self) -> bool:
        return self._node is not None and not self._node.closed

    def __enter__(self) -> Node:
        """Take one of the node's places. Raises TooManyRequests, NoNode."""
        node = self.node
        if self.in_flight >= self.limit:
            raise TooManyRequests("the node is busy", hint="try again in a moment", limit=self.limit)
        self.in_flight += 1
        return node

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.in_flight -= 1

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            node = self._make()
            try:
                await node.connect(self.address)
                await self._keep(node)
            except (AvowError, OSError) as error:
                log.debug("node %s: %s", self.address, error)
            finally:
                if self._node is not None:
                    pause_s = FIRST_PAUSE_S
                self._node = None
                self._changed()
                with contextlib.suppress(AvowError, OSError):
                    await node.close()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _keep(self, node: Node) -> None:
        """Ask what the node offers now and then, until the connection is lost."""
        lost = asyncio.Event()
        node.on_lost = lost.set
        while not node.closed:
            description = await node.describe()
            if description != self.description or self._node is not node:
                self.description = description
                self._node = node
                self._changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await lost.wait()


@dataclass(frozen=True, slots=True)
class Route:
    """One way to answer: this program, on this node, by this method, at `price` wei per unit."""

    link: Link
    program: ProgramDescription
    method: Method
    price: int
    operator: bytes


def _routes_of(link: Link, program: ProgramDescription, operator: bytes) -> Iterator[Route]:
    """A program's routes on one node; what a newer node may offer beyond what is known here is left out."""
    for method, price in zip(program.methods, program.prices, strict=False):
        if method in _KNOWN_METHODS and price.isascii() and price.isdigit():
            yield Route(link, program, Method(method), int(price), operator)


class Directory:
    """All links, and the table of routes that their descriptions make."""

    def __init__(
        self, addresses: Iterable[str], connect: Callable[[], Node], limit: int, default_method: Method
    ) -> None:
        self.default_method = default_method
        self.links = [Link(address, connect, limit, self._rebuild) for address in addresses]
        self._routes: dict[tuple[str, Method], list[Route]] = {}
        self._programs: dict[str, ProgramDescription] = {}
        self._offered: set[tuple[str, Method]] = set()
        """Every model and method that was ever on offer: what is missing now may come back, and is no fault of the caller's."""
        self._began = time.monotonic()

    def _rebuild(self) -> None:
        routes: dict[tuple[str, Method], list[Route]] = {}
        programs: dict[str, ProgramDescription] = {}
        for link in self.links:
            if not link.connected or link.description is None:
                continue
            for program in link.description.programs:
                programs.setdefault(program.name, program)
                for route in _routes_of(link, program, link.description.operator):
                    for name in (program.name, program.program.hex()):
                        routes.setdefault((name, route.method), []).append(route)
        self._routes, self._programs = routes, programs
        self._offered.update(routes)

    def route(self, model: str, method: Method | None, kind: str, node: bytes | None = None) -> Route:
        """The best route; to the operator `node` alone where one is named.

        Raises UnknownModel, MethodNotOffered, WrongKind, NodeNotOffered or NoNode.
        """
        wanted = self.default_method if method is None else method
        routes = self._routes.get((model, wanted))
        if not routes:
            raise self._unrouted(model, wanted)
        if node is not None:
            routes = [route for route in routes if route.operator == node]
            if not routes:
                raise NodeNotOffered(
                    "the node that was authorised does not offer this here",
                    param="avow-authorisation",
                    node="0x" + node.hex(),
                )
        best = routes[0] if len(routes) == 1 else min(routes, key=lambda route: route.link.in_flight)
        if best.program.kind != kind:
            raise WrongKind(f"{best.program.name} is a {best.program.kind} program", param="model")
        return best

    def _unrouted(self, model: str, method: Method) -> AvowError:
        if not self._programs:
            return NoNode("no inference node is connected", hint="it is tried again by itself")
        if (model, method) in self._offered or self._starting(method):
            return NoNode(f"nobody offers {model[:128]} by {method.label} just now", hint="try again in a few seconds")
        offered = [known for known in Method if (model, known) in self._routes]
        if offered:
            names = ", ".join(known.label for known in offered)
            return MethodNotOffered(
                f"{model[:128]} is not offered by {method.label}, but by {names}", param="avow.method"
            )
        return UnknownModel(
            f"the model {model[:128]!r} is not served here", hint="GET /v1/models lists what is", param="model"
        )

    def _starting(self, method: Method) -> bool:
        """Whether a node may yet offer what nobody here has heard of: one that starts the method, or is not met so soon after our start."""
        young = time.monotonic() - self._began < UNMET_S
        return any(
            young if link.description is None else link.connected and method in link.description.starting
            for link in self.links
        )

    def programs(self) -> list[ProgramDescription]:
        """One description of each program served, by name."""
        return [self._programs[name] for name in sorted(self._programs)]

    def program(self, model: str) -> ProgramDescription:
        """Raises UnknownModel or NoNode."""
        for program in self._programs.values():
            if model in (program.name, program.program.hex()):
                return program
        raise self._unrouted(model, self.default_method)

    def prices(self, program: ProgramDescription) -> dict[Method, int]:
        """The lowest price of each method that a program is offered by, in wei per unit."""
        found: dict[Method, int] = {}
        for method in Method:
            routes = self._routes.get((program.name, method))
            if routes:
                found[method] = min(route.price for route in routes)
        return found

    def operators(self, program: ProgramDescription, method: Method) -> list[bytes]:
        """Whose nodes offer a program by a method, without repetition."""
        return sorted({route.operator for route in self._routes.get((program.name, method), ())})

    def connected(self) -> Iterator[Link]:
        return (link for link in self.links if link.connected)
