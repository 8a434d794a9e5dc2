"""What a run came to: the answer's body and commitment, its sealed opening, and what is charged for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avow.nodes.jobs import Job
from avow.nodes.opening import Opening, seal
from avow.nodes.prepared import Prepared
from avow.receipt.commitment import commit, response_body
from avow.receipt.statement import StreamEnd

MAX_UNITS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, for signing."""

    header: bytes
    body: bytes
    response_commitment: bytes
    sealed: bytes
    usage: tuple[tuple[str, int], ...]
    units: int
    stream: StreamEnd | None
    complete: bool


def outcome_of(
    job: Job,
    seed: bytes,
    prepared: Prepared,
    answer: Mapping[str, Any],
    header: bytes,
    *,
    usage: tuple[tuple[str, int], ...],
    units: int,
    stream: StreamEnd | None,
    complete: bool,
) -> Outcome:
    """`answer` as the engine gave it, or as its chunks assemble; `header` is its trace's, or empty."""
    body, parts = response_body(answer)
    last = b"" if stream is None else stream.head + stream.chunks.to_bytes(8)
    if last:
        parts.append(("stream", last))
    opening = Opening(job.endpoint, job.body, prepared.effective_json, body, last, header)
    return Outcome(
        header=header,
        body=b"" if job.stream else body,
        response_commitment=commit("response", seed, parts),
        sealed=seal(opening, seed, prepared.request_commitment),
        usage=usage,
        units=units,
        stream=stream,
        complete=complete,
    )


def usage_of(kind: str, answer: Mapping[str, Any]) -> tuple[tuple[tuple[str, int], ...], int]:
    """Counts by name, and the units that are charged: tokens in and out for chat, one per call for tensors."""
    if kind != "chat":
        return (("calls", 1),), 1
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return (), 0
    counts = tuple(
        (name, count)
        for name, count in usage.items()
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_UNITS
    )
    return counts, dict(counts).get("total_tokens", 0)
