"""What is known of a job before its engine runs: the request as the engine takes it, its commitments, who asked, and who may check."""

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from avow.errors import InputError
from avow.nodes.jobs import Consent, Job
from avow.nodes.loaded import Loaded
from avow.nodes.signer import Signer
from avow.receipt.audience import Audience
from avow.receipt.commitment import commit, effective_parts, request_parts
from avow.receipt.encoding import decode
from avow.receipt.requester import Requester
from avow.receipt.statement import Method

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before the engine runs."""

    request: Any
    effective: dict[str, Any]
    effective_json: bytes
    request_commitment: bytes
    effective_commitment: bytes
    started_ms: int
    consent: Consent | None
    audience: Audience | None


def prepare(job: Job, loaded: Loaded, signer: Signer, seed: bytes) -> Prepared:
    """Everything that can be wrong with a job is found here. Raises InputError, or what the engine refuses."""
    started_ms = time.time_ns() // 1_000_000
    parts = request_parts(job.endpoint, job.body)
    request = loaded.prepare(job.body)
    if job.stream != (loaded.kind == "chat" and bool(request.get("stream"))):
        raise InputError("the body and the caller disagree about streaming", param="stream")
    effective = loaded.engine.effective(request)
    effective_json = _json(effective)
    request_commitment = commit("request", seed, parts)
    _check_requester(job, signer, request_commitment)
    return Prepared(
        request=request,
        effective=effective,
        effective_json=effective_json,
        request_commitment=request_commitment,
        effective_commitment=commit("effective", seed, effective_parts(effective_json)),
        started_ms=started_ms,
        consent=Consent.of(job),
        audience=_audience(job, signer.method),
    )


def _audience(job: Job, method: Method) -> Audience | None:
    """Who may check the answer, where the method lets others check it. Raises InputError."""
    if method is not Method.OPTIMISTIC:
        if job.audience is not None or job.payer_opens:
            raise InputError("only an optimistic answer has an audience", param="avow-audience")
        return None
    return Audience() if job.audience is None else Audience.from_value(decode(job.audience))


def _check_requester(job: Job, signer: Signer, request_commitment: bytes) -> None:
    if (job.requester is None) != (job.requester_signature is None):
        raise InputError("a requester and its signature come together", param="avow-requester")
    if job.requester is not None and job.requester_signature is not None:
        if job.seed is None:
            raise InputError("a signed request needs the caller's own seed", param="avow-seed")
        Requester(job.requester, job.requester_signature).verify(
            signer.chain_id, request_commitment, signer.method.label, job.nonce
        )
