"""One answer run again and laid beside what its node committed to. No network: what has to be asked is the `Respondent`'s.

Rules:
1. What is shown of an answer must be what its statement commits to: columns, private part, request, effective parameters and response.
2. The program is run as the node should have run it. The same trace and the same answer: agreed, and nothing is asked.
3. Another trace: the header is checked, and where it commits to other salts than the opening's seed gives, their key is asked for; then
   the run is made over as many steps as it claims, under those salts, and the first difference is looked for by demands (exact/prover.py).
4. Nothing is challenged that one's own machine does not give twice, and nothing that one's own referee does not convict.
5. What no referee sees is told apart: inputs that are not the request's, parameters that are not the request's, and an answer that is not
   what the outputs say (answers.py). Who was answered can show that; a watcher can only say it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from avow.engines.exact_text import said_in
from avow.engines.interface import TracedEngine
from avow.errors import InputError, VerificationError
from avow.exact.claims import Respondent
from avow.exact.committed import OwnRun
from avow.exact.fraud import FraudProof
from avow.exact.hashing import OUTPUT_SLOT, Header, Salts, trace_of
from avow.exact.program import Program
from avow.exact.prover import OtherInputs, Subject, check_header, find_fault, salts_of
from avow.exact.referee import referee
from avow.nodes.loaded import Loaded
from avow.nodes.openings import Shown
from avow.nodes.watcher.answers import Finding, Speaking, said_of
from avow.nodes.watcher.errors import OpeningWrong
from avow.nodes.watcher.states import Event
from avow.receipt.commitment import Part, commit, effective_parts, request_parts, response_parts
from avow.receipt.encoding import decode
from avow.receipt.statement import Private, private_hash


@dataclass(frozen=True, slots=True)
class Runnable:
    """A program that can be run and refereed here. `manifest`: its encoding."""

    loaded: Loaded
    engine: TracedEngine
    exact: Program


def check_shown(shown: Shown, columns: bytes, private: bytes) -> Private:
    """Rule 1: `shown` against the statement's columns and the hash of its private part. Raises OpeningWrong."""
    if shown.columns != columns or private_hash(shown.private) != private:
        raise OpeningWrong("another statement is shown")
    try:
        said = Private.from_value(decode(shown.private))
        request = request_parts(shown.endpoint, shown.request)
        response: list[Part] = response_parts(shown.response)
    except InputError as error:
        raise OpeningWrong("what is shown is not of a statement's form") from error
    if shown.stream:
        response.append(("stream", shown.stream))
    parts = {"request": request, "effective": effective_parts(shown.effective), "response": response}
    for kind, made in (("request", said.request), ("effective", said.effective), ("response", said.response)):
        if commit(kind, shown.seed, parts[kind]) != made:  # type: ignore[arg-type]
            raise OpeningWrong(f"the {kind} shown is not the one committed to", part=kind)
    return said


def examine(runnable: Runnable, shown: Shown, trace: bytes, respondent: Respondent) -> Finding:
    """Rules 2 to 5, for an opening that `check_shown` has seen. Raises Withheld for what has to be demanded."""
    engine, loaded = runnable.engine, runnable.loaded
    subject = Subject(runnable.exact, loaded.manifest, trace)
    try:
        request = loaded.prepare(shown.request)
        effective = _effective(engine, request, shown.effective)
        if effective is None:
            return Finding(Event.INPUTS_DIFFER, "the effective parameters are not the request's")
        answer, own = _run(loaded, request, effective, shown.seed, shown.response)
    except InputError as error:  # it was answered: a node that answers what cannot be run did not run it
        return _fault_without_run(runnable, subject, respondent, error)
    if trace_of(own) == trace:
        return said_of(shown).compare(Header.parse(own), answer)
    header = check_header(subject, respondent)
    if isinstance(header, FraudProof):
        return _convicted(runnable, header, trace, "the header")
    if dict(header.parameters) != dict(Header.parse(own).parameters):
        return Finding(Event.INPUTS_DIFFER, "the run was sampled with other parameters than the request's")
    return _search(runnable, subject, header, request, effective, answer, shown, respondent)


def _run(
    loaded: Loaded, request: Any, effective: dict[str, Any], seed: bytes, response: bytes
) -> tuple[Mapping[str, Any], bytes]:
    """The answer and the header of one's own run; an answer that is right makes it cheaper."""
    engine: Any = loaded.engine
    if loaded.kind == "chat":
        answer, trace = engine.traced_chat(request, effective, seed, said=said_in(response))
    else:
        answer, trace = engine.traced_infer(request, seed)
    return answer, trace.header


def _effective(engine: TracedEngine, request: Any, shown: bytes) -> dict[str, Any] | None:
    """The effective parameters that were shown, if they are the request's; a seed that the caller left open is the node's choice."""
    try:
        said = msgspec.json.decode(shown, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):  # committed to as bytes: they may be anything
        return None
    own = msgspec.json.decode(msgspec.json.encode(engine.effective(request)), type=dict[str, Any])
    if request.get("seed") is None and isinstance(said.get("seed"), int):
        own["seed"] = said["seed"]
    return said if own == said else None


def _search(
    runnable: Runnable,
    subject: Subject,
    header: Header,
    request: Any,
    effective: dict[str, Any],
    answer: Mapping[str, Any],
    shown: Shown,
    respondent: Respondent,
) -> Finding:
    """Rules 3 and 4."""
    engine = runnable.engine
    salts = salts_of(subject, header, Salts(shown.seed), respondent)
    own = engine.replay(request, effective, salts, header, said=said_in(shown.response))
    try:
        fault = find_fault(subject, header, own, salts, respondent)
    except OtherInputs as error:
        return Finding(Event.INPUTS_DIFFER, error.detail)
    if fault is None:
        return said_of(shown).compare(header, answer, _words(engine, effective, own))
    again = engine.replay(request, effective, salts, header, said=said_in(shown.response))
    if list(own.leaves) != list(again.leaves):
        return Finding(Event.OWN_RUNS_DIFFER, "this machine does not give the same run twice")
    return _convicted(runnable, fault, subject.trace, f"{fault.kind} at leaf {fault.slot}")


def _fault_without_run(runnable: Runnable, subject: Subject, respondent: Respondent, why: InputError) -> Finding:
    header = check_header(subject, respondent)
    if isinstance(header, FraudProof):
        return _convicted(runnable, header, subject.trace, "the header")
    return Finding(Event.INPUTS_DIFFER, f"the request cannot be run: {why.detail}")


def _convicted(runnable: Runnable, fault: FraudProof, trace: bytes, where: str) -> Finding:
    """Rule 4's second half."""
    encoded = fault.encoded()
    try:
        guilty = referee(encoded, runnable.loaded.program, trace)
    except (VerificationError, InputError) as error:
        return Finding(Event.OWN_RUNS_DIFFER, f"a difference ({where}) that the referee does not convict: {error.code}")
    return Finding(Event.FAULT_SHOWN, f"{guilty.kind} at slot {guilty.slot}, value {guilty.index}", encoded)


def _words(engine: TracedEngine, effective: Mapping[str, Any], own: OwnRun) -> str | None:
    """What a run that is as long as the claimed one says; None for a program that says nothing."""
    if not isinstance(engine, Speaking):
        return None
    tokens = own.tensor(OUTPUT_SLOT)
    return engine.words(effective, [int.from_bytes(tokens[at : at + 4], "little") for at in range(0, len(tokens), 4)])
