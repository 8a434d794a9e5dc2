"""The disputes module: bonds, challenges, demands and the ends of optimistic batches behind one Solidity interface."""

from avow.chain.host import Host, Module, bind
from avow.chain.modules import bonds, challenges, claims, demands, disputes, watchers, window
from avow.chain.modules.life import State
from avow.chain.solidity import load_interface
from avow.receipt.finality import BatchState

ADDRESS = bonds.ADDRESS


def batch_of(host: Host, key: bytes, first: int) -> tuple[bytes, int, bytes, int, int, int, int, bool, list[int]]:
    """Root, count, operator, clocks of settlement and deadline, held, locked, whether final, overturned numbers."""
    batch = disputes.load_batch(host, key, first)
    return (
        batch.root,
        batch.count,
        batch.operator,
        batch.settled_clock,
        batch.deadline_clock,
        batch.held,
        batch.locked,
        batch.state is BatchState.FINAL,
        list(batch.overturned),
    )


def statement_of(host: Host, statement: bytes) -> tuple[int, bytes, int, int, bytes, int, bool]:
    """State (0: nobody disputed it with success), key, number, cause, winner, reward, whether it is paid."""
    claim = claims.load_claim(host, statement)
    if claim is None:
        return int(State.OPEN), bytes(32), 0, 0, bytes(20), 0, False
    number, cause = claim.number, int(claim.cause)
    return int(State.OVERTURNED), claim.key, number, cause, claim.winner, claim.reward, claim.paid


def parameters(host: Host) -> tuple[int, int, int, int, int, int, int, int]:
    rules = host.genesis.optimistic
    return (
        rules.window_ms,
        rules.move_ms,
        rules.audit_ppm,
        rules.gain_factor,
        rules.reveal_blocks,
        rules.bond_floor,
        rules.challenge_bond,
        rules.demand_bond,
    )


def required_bond(host: Host, amount: int, terms: int) -> int:
    return host.genesis.optimistic.required_bond(amount, terms)


MODULE: Module = bind(
    ADDRESS,
    load_interface("avow.chain.modules", "disputes.sol"),
    {
        "deposit": bonds.deposit,
        "withdraw": bonds.withdraw,
        "commit": challenges.commit,
        "prove": challenges.prove,
        "lapse": challenges.lapse,
        "reward": claims.reward,
        "demand": demands.demand,
        "answer": demands.answer,
        "expire": demands.expire,
        "finalise": disputes.finalise,
        "appoint": watchers.appoint,
        "dismiss": watchers.dismiss,
        "bondOf": bonds.bond_of,
        "batchOf": batch_of,
        "statementOf": statement_of,
        "challengeOf": challenges.challenge_of,
        "demandOf": demands.demand_of,
        "isWatcher": watchers.is_appointed,
        "parameters": parameters,
        "requiredBond": required_bond,
        "clock": window.now,
    },
)
