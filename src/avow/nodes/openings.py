"""Openings of optimistic answers, for those whom the caller let check them, until nobody can challenge the answer any more.

Rules:
1. Who is admitted: the statement's audience (receipt/audience.py). The payer is, always; so are appointed watchers, unless the caller
   chose otherwise. Each asks with a signature (entitlement.py), but for what is public. An appointed watcher who is not admitted is shown
   the statement's private part, which says so: commitments and counts, no text. Otherwise a node could tell watchers anything.
2. An opening holds what it takes to run the program again: the seed, both bodies, the effective parameters, the trace's header.
3. Parts of the trace are asked for by demands (exact/descent.py). They are answered out of what the run left behind (remains.py), in
   milliseconds; where that is missing, or gives an answer that is not the one right one, the program is run again, which gives the same
   bits. The last few runs are held for the questions that follow.
4. Several questions are answered at once. Those about one statement share a run; of runs that are made again there is one at a time for
   each two cores, and answers that need none do not wait for them.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from avow.engines.exact_text import said_in
from avow.engines.interface import KeepingEngine
from avow.errors import InputError, VerificationError
from avow.exact import descent, hashing
from avow.exact.committed import CommittedRun
from avow.exact.descent import Demand
from avow.exact.errors import BadRun
from avow.exact.hashing import Header, Salts
from avow.nodes.entitlement import Asker
from avow.nodes.errors import DemandRefused, NotEntitled, NotReady, NotTraced, OpeningGone
from avow.nodes.loaded import Loaded, Traced
from avow.nodes.opening import unseal
from avow.nodes.outbox import Outbox
from avow.nodes.outbox_rows import StoredStatement
from avow.nodes.receipts import Receipts
from avow.nodes.remains import Remains
from avow.receipt.encoding import base64url, decode, encode
from avow.receipt.statement import Columns, Method, Private

_HELD_RUNS = 16
_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


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
        remains: Remains | None = None,
    ) -> None:
        self._chain_id = chain_id
        self._outbox = outbox
        self._receipts = receipts
        self._programs = programs
        self._appointed = appointed
        self._remains = remains
        self._runs: OrderedDict[bytes, asyncio.Task[CommittedRun]] = OrderedDict()
        cores = os.cpu_count() or 1
        self._answering = ThreadPoolExecutor(max(2, cores), thread_name_prefix="answer")
        self._replaying = ThreadPoolExecutor(max(1, cores // 2), thread_name_prefix="replay")

    def close(self) -> None:
        """What is being answered is given up."""
        for pool in (self._answering, self._replaying):
            pool.shutdown(wait=False, cancel_futures=True)

    def show(self, statement_id: bytes, asker: Asker | None) -> Shown:
        """Raises ReceiptNotFound, NotTraced, NotEntitled, BadAsker or OpeningGone."""
        row = self._admit(statement_id, asker)
        return self._shown(row)

    async def answer(self, statement_id: bytes, asker: Asker | None, data: bytes) -> bytes:
        """The answer to a demand. Raises as `show`, and EncodingError and its kin, DemandRefused, NotReady."""
        row = self._admit(statement_id, asker)
        return await self.answer_of(row, Demand.parse(data))

    async def answer_of(self, row: StoredStatement, demand: Demand) -> bytes:
        """The answer to a demand about a statement of this node. Raises OpeningGone, DemandRefused, NotReady."""
        shown = self._shown(row)
        try:
            descent.check(demand, hashing.trace_of(shown.header))
        except (VerificationError, InputError) as error:
            raise DemandRefused("the demand shows what is not committed to", reason=error.code) from error
        if demand.header is None:
            return shown.header
        if demand.asked == "key":
            return encode(Salts(shown.seed).key)
        given = await self._from_remains(row, shown, demand)
        if given is not None:
            return given
        committed = await self._run_of(row.id, lambda: self._replay(row, shown), self._replaying)
        return await self._in(self._answering, lambda: descent.answer_to(demand, committed))

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def _run_of(self, key: bytes, make: Callable[[], CommittedRun], pool: ThreadPoolExecutor) -> CommittedRun:
        """The run that is known by `key`, made once for all who ask for it (rule 4)."""
        task = self._runs.get(key)
        if task is None:
            task = self._runs[key] = asyncio.get_running_loop().create_task(self._in(pool, make))
            while len(self._runs) > _HELD_RUNS:
                self._runs.popitem(last=False)
        else:
            self._runs.move_to_end(key)
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._runs.get(key) is task:
                del self._runs[key]
            raise

    async def _from_remains(self, row: StoredStatement, shown: Shown, demand: Demand) -> bytes | None:
        """Rule 3: the answer out of what the run left behind, if that is there and gives it."""
        if self._remains is None or row.id in self._runs:
            return None
        trace, key = Columns.unpack(row.columns).trace, b"left" + row.id
        data = None if key in self._runs else self._remains.read(trace)
        if data is None and key not in self._runs:
            return None
        try:
            committed = await self._run_of(key, lambda: self._restore(row, shown, data), self._answering)
            given = await self._in(self._answering, lambda: descent.answer_to(demand, committed))
            descent.check_answer(demand, given, trace)
        except (VerificationError, InputError, BadRun, LookupError) as error:
            log.warning("what the run of %s left behind is not whole: it is run again: %s", row.id.hex(), error)
            self._runs.pop(key, None)
            self._remains.drop((trace,))
            return None
        return given

    def _restore(self, row: StoredStatement, shown: Shown, data: memoryview | None) -> CommittedRun:
        engine, request, effective = self._prepared(row, shown)
        if data is None or not isinstance(engine, KeepingEngine):
            raise BadRun("nothing was left behind")
        salts = Salts(shown.seed)
        return CommittedRun(shown.header, engine.restore(request, effective, salts, shown.header, data), salts)

    def _replay(self, row: StoredStatement, shown: Shown) -> CommittedRun:
        engine, request, effective = self._prepared(row, shown)
        header, salts = Header.parse(shown.header), Salts(shown.seed)
        run = engine.replay(request, effective, salts, header, said=said_in(shown.response))
        return CommittedRun(shown.header, run, salts)

    def _prepared(self, row: StoredStatement, shown: Shown) -> tuple[Traced, Any, dict[str, Any]]:
        loaded = self._programs.get(Columns.unpack(row.columns).program)
        if loaded is None or not isinstance(loaded.engine, Traced):
            raise NotReady("the program is not loaded any more")
        return loaded.engine, loaded.prepare(shown.request), msgspec.json.decode(shown.effective)

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
