"""CometBFT's JSON-RPC, as far as the engine needs it: signed headers, validator sets, and a way to hand in transactions.

Rules:
1. It is asked over its Unix socket (or TCP); several calls go as one batch, which CometBFT answers in order.
2. What comes back is read strictly into `receipt.headers`: every size bounded, hexadecimal, base64 and times in the forms that
   CometBFT writes. Whether it is true is the caller's to check: hashes here, signatures in the light client.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from avow.consensus.cometbft.errors import RpcFailed
from avow.consensus.cometbft.posts import Posts
from avow.errors import EncodingError
from avow.receipt.headers import (
    BlockID,
    BlockIDFlag,
    Commit,
    CommitSig,
    Header,
    Validator,
)

TIMEOUT_S = 10.0
MAX_ANSWER = 128 * 1024 * 1024
PAGE = 100
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_ZERO_TIME = "0001-01-01T00:00:00Z"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class CallRefused(RpcFailed):
    """CometBFT answered this call with an error of its own."""

    code = "cometbft_rpc_refused"


class CometRpc:
    """A client of one CometBFT. `address`: "unix:///path" or "tcp://host:port"."""

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._posts = Posts(address, timeout_s=timeout_s)

    async def close(self) -> None:
        self._posts.close()

    async def batch(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """The results in order; a call that was refused gives a CallRefused in its place. Raises RpcFailed."""
        body = _encode(
            [
                {"jsonrpc": "2.0", "id": index, "method": method, "params": params}
                for index, (method, params) in enumerate(calls)
            ]
        )
        try:
            answers = _decode(await self._posts.post(body, MAX_ANSWER))
        except msgspec.DecodeError as error:
            raise RpcFailed("CometBFT's RPC answered something else") from error
        if isinstance(answers, dict):
            answers = [answers]
        if not isinstance(answers, list) or len(answers) != len(calls):
            raise RpcFailed("CometBFT's RPC answered something else")
        return [_result(answer) for answer in answers]

    async def call(self, method: str, **params: Any) -> Any:
        """Raises RpcFailed, CallRefused."""
        (result,) = await self.batch([(method, params)])
        if isinstance(result, CallRefused):
            raise result
        return result

    async def signed_headers(self, heights: Sequence[int]) -> list[tuple[Header, Commit]]:
        """Of blocks that are decided. Raises RpcFailed when one is not there yet."""
        results = await self.batch([("commit", {"height": str(height)}) for height in heights])
        found = []
        for result in results:
            if isinstance(result, CallRefused):
                raise result
            found.append(read_signed_header(result))
        return found

    async def validators(self, height: int) -> tuple[Validator, ...]:
        """The set that decides `height`, in its order."""
        found: list[Validator] = []
        page, total = 1, 1
        while len(found) < total:
            result = await self.call("validators", height=str(height), page=str(page), per_page=str(PAGE))
            part, total = read_validators(result)
            if not part:
                break
            found += part
            page += 1
        return tuple(found)

    async def broadcast(self, txs: Sequence[bytes]) -> list[Any]:
        """Hand these to CometBFT's mempool, without waiting for what it does with them: for each {"hash", …}, or CallRefused where it takes
        nothing now.
        """
        return await self.batch([("broadcast_tx_async", {"tx": _base64(tx)}) for tx in txs])

    async def status(self) -> dict[str, Any]:
        result = await self.call("status")
        return result if isinstance(result, dict) else {}


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _result(answer: Any) -> Any:
    if not isinstance(answer, dict):
        raise RpcFailed("CometBFT's RPC answered something else")
    error = answer.get("error")
    if error is not None:
        detail = error.get("data") or error.get("message") if isinstance(error, dict) else ""
        return CallRefused("CometBFT refused the call", reason=str(detail)[:300])
    return answer.get("result")


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_signed_header(result: Any) -> tuple[Header, Commit]:
    """The answer of /commit. Raises EncodingError."""
    try:
        signed = result["signed_header"]
        return _header(signed["header"]), _commit(signed["commit"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EncodingError("this is no signed header") from error


def read_validators(result: Any) -> tuple[list[Validator], int]:
    """A page of /validators, and how many there are in all. Raises EncodingError."""
    try:
        items = [_validator(item) for item in result["validators"]]
        return items, _integer(result["total"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EncodingError("these are no validators") from error


def _header(value: dict[str, Any]) -> Header:
    version = value["version"]
    header = Header(
        block_version=_integer(version["block"]),
        app_version=_integer(version.get("app", "0")),
        chain_id=_text(value["chain_id"]),
        height=_integer(value["height"]),
        time_ns=_required_time(value["time"]),
        last_block_id=_block_id(value["last_block_id"]),
        last_commit_hash=_hex(value["last_commit_hash"]),
        data_hash=_hex(value["data_hash"]),
        validators_hash=_hex(value["validators_hash"]),
        next_validators_hash=_hex(value["next_validators_hash"]),
        consensus_hash=_hex(value["consensus_hash"]),
        app_hash=_hex(value["app_hash"]),
        last_results_hash=_hex(value["last_results_hash"]),
        evidence_hash=_hex(value["evidence_hash"]),
        proposer_address=_hex(value["proposer_address"]),
    )
    return Header.from_value(header.to_value())  # bounds and lengths


def _commit(value: dict[str, Any]) -> Commit:
    commit = Commit(
        _integer(value["height"]),
        _integer(value["round"]),
        _block_id(value["block_id"]),
        tuple([_commit_sig(item) for item in value["signatures"]]),
    )
    return Commit.from_value(commit.to_value())


def _commit_sig(value: dict[str, Any]) -> CommitSig:
    flag = BlockIDFlag(_integer(value["block_id_flag"]))
    signature = value["signature"]
    return CommitSig(
        flag,
        _hex(value["validator_address"]),
        _time(value["timestamp"]),
        b"" if signature is None else b64decode(_text(signature), validate=True),
    )


def _block_id(value: dict[str, Any]) -> BlockID:
    parts = value["parts"]
    return BlockID(_hex(value["hash"]), _integer(parts["total"]), _hex(parts["hash"]))


def _validator(value: dict[str, Any]) -> Validator:
    key = value["pub_key"]
    if key["type"] != "tendermint/PubKeyEd25519":
        raise ValueError("not Ed25519")
    public_key = b64decode(_text(key["value"]), validate=True)
    return Validator.from_value({"public_key": public_key, "power": _integer(value["voting_power"])})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _hex(value: Any) -> bytes:
    return bytes.fromhex(_text(value))


def _integer(value: Any) -> int:
    """A decimal text (64 bits) or a number (32 bits)."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("not a number")


def _time(value: Any) -> int | None:
    """RFC 3339 with up to nine digits; Go's zero time is None."""
    if value == _ZERO_TIME:
        return None
    found = _TIME.fullmatch(_text(value))
    if found is None:
        raise ValueError("not a time")
    seconds = int(datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp())
    return seconds * 10**9 + int((found[2] or "").ljust(9, "0"))


def _required_time(value: Any) -> int:
    time_ns = _time(value)
    if time_ns is None:
        raise ValueError("no time")
    return time_ns
