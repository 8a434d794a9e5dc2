"""What a client hands to its caller: answers that held, with their receipts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avow.client.check import Verified
from avow.client.errors import AnswerOverturned
from avow.client.exchange import Sent
from avow.client.session import Session
from avow.home import write_private
from avow.receipt.receipt import Receipt
from avow.receipt.report import CheckName, Outcome, Report


class HeldReceipt:
    """A verified receipt and what was found. `value` shows request and response; `redacted()` is the one to pass on."""

    def __init__(self, session: Session, verified: Verified, sent: Sent) -> None:
        self._session = session
        self._path = f"/receipts/{verified.receipt.id}"
        self.value: Receipt = verified.opened(sent.body)
        self.report: Report = verified.report

    @property
    def id(self) -> str:
        return self.value.id

    @property
    def is_settled(self) -> bool:
        return self.value.settlement is not None

    @property
    def is_final(self) -> bool:
        """Whether an optimistic answer is shown to be final: nobody can challenge it any more, and nobody overturned it."""
        return any(check.name is CheckName.FINALITY and check.outcome is Outcome.PASS for check in self.report.checks)

    def redacted(self) -> Receipt:
        """Without prompt and answer; it verifies all the same."""
        return self.value.redacted()

    def to_json(self) -> bytes:
        """The file that `avow verify` takes. It holds prompt and answer: `redacted().to_json()` does not."""
        return self.value.to_json()

    def save(self, path: str | Path | None = None) -> Path:
        """Write it to `path`, or under HOME/receipts; readable by its owner alone."""
        if path is None:
            return self._session.save(self.value)
        write_private(Path(path), self.to_json())
        return Path(path)

    def _took(self, fetched: bytes) -> bool:
        """Take the settlement that the gateway shows. False while it shows none. Raises AnswerOverturned, having taken it too."""
        try:
            found = self._session.settled(self.value, fetched)
        except AnswerOverturned as overturned:
            self.value, self.report = overturned.receipt, overturned.report
            self._session.resave(self.value)
            raise
        if found is None:
            return False
        self.value, self.report = found
        self._session.resave(self.value)
        return True

    def __repr__(self) -> str:
        state = "settled" if self.is_settled else "not settled yet"
        return f"<receipt {self.id[:16]}… {self.value.statement.columns.method.label}, {self.report.verdict}, {state}>"


class _Body:
    """A response's body: `raw` as committed, `body` as Python values."""

    raw: bytes

    @cached_property
    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.raw)
        return value


class ChatBody(_Body):
    """A chat completion."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @property
    def message(self) -> Mapping[str, Any]:
        """The first choice's message."""
        choices = self.body.get("choices") or [{}]
        message: Mapping[str, Any] = choices[0].get("message") or {}
        return message

    @property
    def text(self) -> str:
        """What the first choice says; empty where it calls tools or refuses."""
        return self.message.get("content") or ""

    @property
    def tool_calls(self) -> list[Mapping[str, Any]]:
        return list(self.message.get("tool_calls") or [])

    @property
    def finish_reason(self) -> str | None:
        choices = self.body.get("choices") or [{}]
        reason: str | None = choices[0].get("finish_reason")
        return reason

    @property
    def usage(self) -> Mapping[str, Any]:
        return self.body.get("usage") or {}


class InferBody(_Body):
    """The outputs of a tensor program."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @property
    def outputs(self) -> list[Mapping[str, Any]]:
        return list(self.body.get("outputs") or [])

    def output(self, name: str) -> list[Any]:
        """The data of the output tensor `name`. Raises KeyError."""
        for tensor in self.outputs:
            if tensor.get("name") == name:
                return list(tensor["data"])
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One verified chunk of a stream: the exact bytes of its event."""

    data: bytes

    @property
    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.data)
        return value

    @property
    def text(self) -> str:
        """What the first choice says more."""
        for choice in self.body.get("choices") or []:
            if choice.get("index") == 0:
                text: str = (choice.get("delta") or {}).get("content") or ""
                return text
        return ""
