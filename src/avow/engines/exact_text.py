"""What stands before and after an exact language program: turns to tokens, tokens to text. Outside of the program's proofs.

Rules:
1. ChatML: each turn is the token <|im_start|>, the role, a line end, the words, the token <|im_end|>, a line end; the answer begins after
   <|im_start|>assistant and a line end. Special tokens are placed here and nowhere else: words that look like them stay words.
2. Text comes out in whole characters; bytes that are none are U+FFFD. A text that may be the beginning of a stop text waits.
3. A stop text ends the answer and is not part of it; of several the one that begins first counts, of these the one given first.

Pure: no clock, no randomness, no input or output.
"""

import codecs
from collections.abc import Sequence

import msgspec

from avow.engines.prompt import Turn
from avow.exact.tokeniser import Tokeniser

TEMPLATES = ("chatml",)
_WINDOW = 2_048
"""Bytes of a text that are made tokens at a time."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Answer(msgspec.Struct):
    choices: list[_Choice]


def chat_tokens(tokeniser: Tokeniser, turns: Sequence[Turn]) -> list[int]:
    """The prompt's tokens (rule 1). Raises BadTokeniser, TooLarge."""
    start, end = tokeniser.special("<|im_start|>"), tokeniser.special("<|im_end|>")
    line = tokeniser.encode("\n")
    tokens: list[int] = []
    for turn in turns:
        tokens += [start, *tokeniser.encode(f"{turn['role']}\n{turn['content']}"), end, *line]
    return [*tokens, start, *tokeniser.encode("assistant\n")]


def said_in(response: bytes) -> str:
    """What the first choice of a chat answer says, as a guess of its tokens; "" for anything else."""
    try:
        return msgspec.json.decode(response, type=_Answer).choices[0].message.content or ""
    except (msgspec.DecodeError, IndexError, RecursionError):  # whatever it is: it says nothing
        return ""


class Said:
    """What an answer's tokens may be, out of its text: `language_run.Expected`.

    A text has more than one way into tokens; the usual one is meant.
    """

    def __init__(self, tokeniser: Tokeniser, text: str) -> None:
        self._tokeniser = tokeniser
        self._data = text.encode(errors="replace")

    def __call__(self, chosen: Sequence[int]) -> list[int]:
        """The next tokens, some of them at a time; none where the text is at its end, or is another."""
        before = self._tokeniser.text(chosen)
        if not self._data.startswith(before):
            return []
        rest = self._data[len(before) : len(before) + _WINDOW].decode(errors="ignore")
        tokens = self._tokeniser.encode(rest)
        return tokens[:-2] if len(self._data) > len(before) + _WINDOW else tokens  # a cut word is another


class Text:
    """Rules 2 and 3 over tokens as they come."""

    def __init__(self, tokeniser: Tokeniser, stops: Sequence[str]) -> None:
        self._tokeniser = tokeniser
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def take(self, token: int) -> str:
        """What may be said now."""
        return self._say(self._decoder.decode(self._tokeniser.piece(token)), last=False)

    def finish(self) -> str:
        """What was still held back."""
        return self._say(self._decoder.decode(b"", final=True), last=True)

    def _say(self, more: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        self._held += more
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            said, self._held = self._held[: min(found)], ""
            return said
        keep = 0 if last else self._open()
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said

    def _open(self) -> int:
        """How much of the end may be the beginning of a stop text."""
        held = self._held
        longest = 0
        for stop in self._stops:
            for count in range(min(len(stop) - 1, len(held)), longest, -1):
                if held.endswith(stop[:count]):
                    longest = count
                    break
        return longest
