"""What an answer says, beside what its run gives: the part of an optimistic statement that no fraud proof is about.

Rules, for a run whose every value is right:
1. The statement counts and charges what the header says: the prompt's tokens and those chosen; one call for a program that is no chat.
2. A whole answer says what the run says: the same values, the same words, the same reason for its end. Of a stream's chunks, which need not
   carry all that a whole answer has, nothing is said that the run does not say.
3. A run that was broken off where one's own went on ends an answer that its caller left, and no other: the statement says that it is not
   complete. What was delivered by then begins what the run says, and goes no further than its tokens.
4. A caller may leave after the last token, too: then an incomplete answer begins what the run says, or is all of it with its end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import msgspec

from avow.exact.hashing import Header
from avow.nodes.openings import Shown
from avow.nodes.watcher.states import Event
from avow.receipt.encoding import decode
from avow.receipt.statement import Columns, Private

_VOLATILE = ("id", "created")
"""Members of a chat answer that are no part of what the program computed."""


@runtime_checkable
class Speaking(Protocol):
    """An engine whose runs give words."""

    def words(self, effective: Mapping[str, Any], tokens: Sequence[int]) -> str:
        """What is said of these chosen tokens while the answer goes on: what may begin a stop text is held back."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to. `fault`: the proof, with FAULT_SHOWN."""

    event: Event
    detail: str = ""
    fault: bytes = b""


@dataclass(frozen=True, slots=True)
class Said:
    """What an opening shows of an answer. `usage` and `units`: as the statement has them; None where no statement is shown."""

    response: bytes
    stream: bool
    complete: bool
    usage: Mapping[str, int] | None
    units: int

    def compare(self, header: Header, own: Mapping[str, Any], words: str | None = None) -> Finding:
        """Rules 1 to 4. `own`: the answer of one's own whole run; `words`: what a run of as many steps as the header's says."""
        wrong = self._wrong_count(header) or self._wrong_answer(header, own, words)
        if wrong:
            return Finding(Event.ANSWER_DIFFERS, wrong)
        return Finding(Event.SAME_RUN, "" if self.complete else "its caller left: it begins what the run says")

    def _wrong_count(self, header: Header) -> str:
        """Rule 1."""
        if self.usage is None:
            return ""
        if not header.prompt:
            counted, charged = {"calls": 1}, 1
        else:
            chosen = header.steps - header.prompt + 1
            charged = header.prompt + chosen
            counted = {"prompt_tokens": header.prompt, "completion_tokens": chosen, "total_tokens": charged}
        if dict(self.usage) != counted:
            return "the statement counts otherwise than the run"
        return "" if self.units == charged else f"{self.units} units are charged, and the run has {charged}"

    def _wrong_answer(self, header: Header, own: Mapping[str, Any], words: str | None) -> str:
        told = _object(self.response)
        if told is None:  # JSON, but none that a program's answer is
            return "the answer is not one that the program's outputs say"
        made = msgspec.json.decode(msgspec.json.encode(own), type=dict[str, Any])
        if header.prompt:
            told, made = (
                {name: value for name, value in each.items() if name not in _VOLATILE} for each in (told, made)
            )
        if not self.complete:
            return _wrong_beginning(told, made, words)
        if words is not None:
            return "the run ends elsewhere than the program's, and the answer says that it is whole"
        if told != made and not (self.stream and _within(told, made) and _ends(told) == _ends(made)):
            return "the answer is not what the program's outputs say"
        return ""


def said_of(shown: Shown) -> Said:
    """Of an opening that `check_shown` has seen."""
    if not shown.private:
        return Said(shown.response, bool(shown.stream), True, None, 0)
    private, columns = Private.from_value(decode(shown.private)), Columns.unpack(shown.columns)
    return Said(shown.response, bool(shown.stream), private.complete, dict(private.usage), columns.units)


def _wrong_beginning(told: dict[str, Any], made: dict[str, Any], words: str | None) -> str:
    """Rules 3 and 4."""
    ends, own = _ends(told), _ends(made)
    if len(ends) > 1 or not own:
        return "an answer that its caller left says more than the run"
    text, reason = ends[0] if ends else ("", None)
    whole = own[0][0] if words is None else words
    if reason is not None and (words is not None or (text, reason) != own[0]):
        return "an answer that its caller left gives a reason for its end that the run does not have"
    if not isinstance(text, str) or not isinstance(whole, str) or not whole.startswith(text):
        return "what was delivered is not how the run begins"
    bare = {**told, "choices": [], "usage": None}
    return "" if _within(bare, {**made, "choices": []}) else "the answer is not what the program's outputs say"


def _ends(answer: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Of each choice what was said and why it ended."""
    choices = answer.get("choices")
    found = []
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(choice, dict):
            found.append(
                (message.get("content") if isinstance(message, dict) else message, choice.get("finish_reason"))
            )
    return found


def _within(told: Any, made: Any) -> bool:
    """Whether nothing is told that was not made; what is null or empty tells nothing."""
    if told is None or told in ("", [], {}):
        return True
    if isinstance(told, dict) and isinstance(made, dict):
        return all(name in _VOLATILE or _within(value, made.get(name)) for name, value in told.items())
    if isinstance(told, list) and isinstance(made, list):
        return len(told) <= len(made) and all(_within(*pair) for pair in zip(told, made, strict=False))
    return bool(told == made)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
