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

from avow.engines.prompt import Turn
from avow.exact.tokeniser import Tokeniser

TEMPLATES = ("chatml",)


def chat_tokens(tokeniser: Tokeniser, turns: Sequence[Turn]) -> list[int]:
    """The prompt's tokens (rule 1). Raises BadTokeniser, TooLarge."""
    start, end = tokeniser.special("<|im_start|>"), tokeniser.special("<|im_end|>")
    line = tokeniser.encode("\n")
    tokens: list[int] = []
    for turn in turns:
        tokens += [start, *tokeniser.encode(f"{turn['role']}\n{turn['content']}"), end, *line]
    return [*tokens, start, *tokeniser.encode("assistant\n")]


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
