"""What a watcher says: one case as JSON, and as a line for people."""

from typing import Any

from avow.nodes.watcher.journal import Case
from avow.nodes.watcher.states import ALARMS, State

WORDS = {
    State.CHOSEN: "is to be checked",
    State.AGREED: "was run again: the same bits",
    State.WITHHELD: "is not shown: it will be demanded on chain",
    State.DEMANDED: "is demanded on chain",
    State.PROVEN: "is wrong, and the referee convicts it",
    State.COMMITTED: "is challenged: the proof is committed to",
    State.UPHELD: "is overturned",
    State.WON: "is overturned, and the reward is paid",
    State.BEATEN: "was overturned by another watcher",
    State.NOT_LET: "is not for the network's watchers to check",
    State.UNKNOWN_PROGRAM: "cannot be run again: its program is not in this store",
    State.OTHER_INPUTS: "was run on other inputs than the request's",
    State.OTHER_ANSWER: "was answered otherwise than its outputs say",
    State.FOR_PAYER: "is wrong, and the payer alone may show it on chain",
    State.UNSURE: "differs, but not so that this machine could stand for it",
    State.UNCHECKED: "could not be checked: its opening is withheld",
    State.MISSED: "was not checked in time",
    State.FAILED: "could not be checked: errors of this watcher",
    State.REJECTED: "was challenged, and the chain did not convict",
}


def is_alarm(case: Case) -> bool:
    return case.state in ALARMS


def as_json(case: Case) -> dict[str, Any]:
    """One line of JSON."""
    columns = case.columns
    return {
        "at_ms": case.changed_ms,
        "state": case.state.value,
        "alarm": is_alarm(case),
        "statement": case.statement.hex(),
        "key": case.key.hex(),
        "number": columns.number,
        "program": columns.program.hex(),
        "payer": "0x" + columns.payer.hex(),
        "detail": case.detail,
    }


def as_line(case: Case) -> str:
    """One line for people."""
    detail = f" ({case.detail})" if case.detail else ""
    return f"{case.statement.hex()[:16]} {WORDS[case.state]}{detail}"
