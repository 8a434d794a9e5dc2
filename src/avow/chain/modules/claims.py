"""Who overturned a statement, and when the reward is theirs.

Rules:
1. There is one claim per overturned statement; nothing deletes it.
2. The winner of a fraud is the first who committed to a proof that holds, whoever reveals first: a claim is taken over by an earlier
   challenge of the same batch as long as it is not paid.
3. It is paid at once if the challenge was the batch's first; else once every earlier challenge has been revealed or has lapsed, which is
   when the claim's own could not have been revealed any more. Anyone may say so.
4. The winner of a demand that expired is who posed it, at once.
"""

from dataclasses import dataclass, replace
from typing import Self

from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import bonds, keys, window
from avow.chain.modules.life import Event, State, Subject, advance
from avow.receipt import fields
from avow.receipt.encoding import decode, encode

_STATEMENT = b"disputes/statement/"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who overturned a statement, how, and what for. `order`, `height` and `clock` are the challenge's; a claim that is paid stays."""

    key: bytes
    first: int
    number: int
    cause: keys.RevocationCause
    winner: bytes
    order: int
    height: int
    clock: int
    reward: int
    paid: bool

    def to_bytes(self) -> bytes:
        return encode(
            {
                "key": self.key,
                "first": self.first,
                "number": self.number,
                "cause": int(self.cause),
                "winner": self.winner,
                "order": self.order,
                "height": self.height,
                "clock": self.clock,
                "reward": self.reward.to_bytes(16),
                "paid": self.paid,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        item = fields.mapping(decode(data), "claim", tuple(cls.__dataclass_fields__))
        return cls(
            key=fields.octets(item["key"], "key", 32),
            first=fields.integer(item["first"], "first"),
            number=fields.integer(item["number"], "number"),
            cause=keys.RevocationCause(fields.integer(item["cause"], "cause")),
            winner=fields.octets(item["winner"], "winner", 20),
            order=fields.integer(item["order"], "order"),
            height=fields.integer(item["height"], "height"),
            clock=fields.integer(item["clock"], "clock"),
            reward=int.from_bytes(fields.octets(item["reward"], "reward", 16)),
            paid=fields.boolean(item["paid"], "paid"),
        )


def load_claim(host: Host, statement: bytes) -> Claim | None:
    record = host.load(_STATEMENT + statement)
    return None if record is None else Claim.from_bytes(record)


def store_claim(host: Host, statement: bytes, claim: Claim) -> None:
    host.store(_STATEMENT + statement, claim.to_bytes())


def pay(host: Host, statement: bytes, claim: Claim) -> None:
    """The reward of a claim that can no longer be taken over."""
    host.transfer(bonds.ADDRESS, claim.winner, claim.reward)
    store_claim(host, statement, replace(claim, paid=True))
    host.log("Rewarded", statement, claim.winner, claim.reward)


def is_closed(host: Host, claim: Claim) -> bool:
    """Rule 3: whether no earlier challenge can take a claim over."""
    if not claim.order:
        return True
    rules = host.genesis.optimistic
    late = window.now(host) > claim.clock + rules.move_ms
    return late and host.block.height > claim.height + rules.reveal_blocks


def reward(host: Host, statement: bytes) -> None:
    """Rule 3, later."""
    claim = load_claim(host, statement)
    if claim is None or claim.paid:
        raise Refused(Code.REWARD_UNKNOWN)
    if not is_closed(host, claim):
        raise Refused(Code.REWARD_WAITS)
    advance(Subject.CHALLENGE, State.UPHELD, Event.TIME_PASSED)
    pay(host, statement, claim)
