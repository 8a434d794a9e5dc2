"""Openings of optimistic answers, for those whom the caller let check them, until nobody can challenge the answer any more.

Rules:
1. Who is admitted: the statement's audience (receipt/audience.py). The payer is, always; so are appointed watchers, unless the caller
   chose otherwise. Each asks with a signature (entitlement.py), but for what is public. An appointed watcher who is not admitted is shown
   the statement's private part, which says so: commitments and counts, no text. Otherwise a node could tell watchers anything.
2. An opening holds what it takes to run the program again: the seed, both bodies, the effective parameters, the trace's header.
3. Parts of the trace are asked for by demands (exact/descent.py). Nothing of a run is kept: the node runs the program again, which
   gives the same bits, and keeps the last few runs for the questions that follow.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping

import msgspec

from avow.errors import InputError, VerificationError
from avow.exact import descent, hashing
from avow.exact.committed import CommittedRun
from avow.exact.hashing import Header, Salts
from avow.nodes.entitlement import Asker
from avow.nodes.errors import DemandRefused, NotEntitled, NotReady, NotTraced, OpeningGone
from avow.nodes.opening import unseal
from avow.nodes.outbox import Outbox
from avow.nodes.outbox_rows import StoredStatement
from avow.nodes.receipts import Receipts
from avow.nodes.run import Loaded, Traced
from avow.receipt.encoding import base64url, decode
from avow.receipt.statement import Columns, Method, Private

_KEPT_RUNS = 2


class Shown(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Rule 2, as it travels. `columns` and `private` are the statement's; `stream` ends a streamed response's parts."""

    columns: bytes
    private: bytes
    seed: bytes
    endpoint: str
    request: bytes
    effective: bytes
    response: bytes
    stream: bytes
    header: bytes


MAX_SHOWN = 64 * 1024 * 1024
encode_shown = msgspec.msgpack.Encoder().encode
decode_shown = msgspec.msgpack.Decoder(Shown).decode


class Openings:
    """Reads one outbox; `appointed` gives the network's watchers as they are now."""

    def __init__(
        self,
        chain_id: str,
        outbox: Outbox,
        receipts: Receipts,
        programs: Mapping[bytes, Loaded],
        appointed: Callable[[], Collection[bytes]],
    ) -> None:
        self._chain_id = chain_id
        self._outbox = outbox
        self._receipts = receipts
        self._programs = programs
        self._appointed = appointed
        self._runs: OrderedDict[bytes, CommittedRun] = OrderedDict()
        self._running = asyncio.Lock()

    def show(self, statement_id: bytes, asker: Asker | None) -> Shown:
        """Raises ReceiptNotFound, NotTraced, NotEntitled, BadAsker or OpeningGone."""
        row = self._admit(statement_id, asker)
        return self._shown(row)

    async def answer(self, statement_id: bytes, asker: Asker | None, data: bytes) -> bytes:
        """The answer to a demand. Raises as `show`, and EncodingError and its kin, DemandRefused, NotReady."""
        row = self._admit(statement_id, asker)
        return await self.answer_of(row, descent.Demand.parse(data))

    async def answer_of(self, row: StoredStatement, demand: descent.Demand) -> bytes:
        """The answer to a demand about a statement of this node. Raises OpeningGone, DemandRefused, NotReady."""
        shown = self._shown(row)
        try:
            descent.check(demand, hashing.trace_of(shown.header))
        except (VerificationError, InputError) as error:
            raise DemandRefused("the demand shows what is not committed to", reason=error.code) from error
        if demand.header is None:
            return shown.header
        async with self._running:
            committed = self._runs.get(row.id)
            if committed is None:
                committed = self._runs[row.id] = await asyncio.to_thread(self._replay, row, shown)
                if len(self._runs) > _KEPT_RUNS:
                    self._runs.popitem(last=False)
            return await asyncio.to_thread(descent.answer_to, demand, committed)

    def _replay(self, row: StoredStatement, shown: Shown) -> CommittedRun:
        loaded = self._programs.get(Columns.unpack(row.columns).program)
        if loaded is None or not isinstance(loaded.engine, Traced):
            raise NotReady("the program is not loaded any more")
        request = loaded.prepare(shown.request)
        effective = msgspec.json.decode(shown.effective)
        header = Header.parse(shown.header)
        salts = Salts(shown.seed)
        return CommittedRun(shown.header, loaded.engine.replay(request, effective, salts, header), salts)

    def _admit(self, statement_id: bytes, asker: Asker | None) -> StoredStatement:
        row = self._receipts.find(statement_id)
        columns = Columns.unpack(row.columns)
        if columns.method is not Method.OPTIMISTIC:
            raise NotTraced("only optimistic answers are checked by running them again")
        audience = Private.from_value(decode(row.private)).audience
        assert audience is not None
        if asker is not None:
            asker.verify(self._chain_id, statement_id, time.time_ns() // 1_000_000)
        address = b"" if asker is None else asker.address
        if not audience.admits(address, payer=columns.payer, appointed=self._appointed()):
            shown = {"private": base64url(row.private)} if address in self._appointed() else {}
            raise NotEntitled("the caller did not let you check this answer", audience=audience.kind.value, **shown)
        return row

    def _shown(self, row: StoredStatement) -> Shown:
        traced = self._outbox.traced(row.key_number, row.number)
        sealed = None if row.opening is None else self._outbox.sealed_opening(row.opening)
        if traced is None or sealed is None:
            raise OpeningGone("the answer is final: its opening is with its caller alone")
        seed, header = traced
        opening = unseal(sealed, seed, Private.from_value(decode(row.private)).request)
        return Shown(
            row.columns,
            row.private,
            seed,
            opening.endpoint,
            opening.request,
            opening.effective,
            opening.response,
            opening.stream,
            header,
        )
