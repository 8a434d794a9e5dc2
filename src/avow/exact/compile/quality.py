"""How good an exact language program is: its perplexity beside that of the float model that it came from, on the same tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from avow.exact.compile.gguf_model import Floats, Model
from avow.exact.compile.language_numpy import Prompt, logits_of, stream_of
from avow.exact.compile.llama import LOGIT_UNIT
from avow.exact.compile.llama_float import Tokens, head, hidden, losses, perplexity
from avow.exact.kernels.language_machine import LanguageMachine
from avow.exact.program import Program
from avow.models.store import Progress, no_progress

BATCH = 4
"""Windows that the float model runs together: each layer's weights are read once for them."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Perplexities over `tokens` predicted tokens; `agreement` is the share of positions where both think the same token likeliest."""

    tokens: int
    float_perplexity: float
    exact_perplexity: float
    agreement: float

    @property
    def loss(self) -> float:
        """How much worse the exact program is: 0.01 is one per cent."""
        return self.exact_perplexity / self.float_perplexity - 1


def cut(tokens: Sequence[int], length: int, count: int) -> list[Tokens]:
    """`count` windows of `length` tokens, one behind the other, spread evenly over a text."""
    most = len(tokens) // length
    places = np.linspace(0, most - 1, min(count, most)).round().astype(int)
    return [np.asarray(tokens[place * length : (place + 1) * length], np.int64) for place in places]


def measure(model: Model, program: Program, windows: Sequence[Tokens], progress: Progress = no_progress) -> Quality:
    """Both models on the same windows, each of which is a text of its own."""
    machine = LanguageMachine(program)
    float_losses: list[Floats] = []
    exact_losses: list[Floats] = []
    agreed: list[Floats] = []
    for number, (tokens, expected) in enumerate(_float_logits(model, windows)):
        progress(number, len(windows), "measuring perplexity")
        found = exact_logits(machine, tokens)
        float_losses.append(losses(expected, tokens))
        exact_losses.append(losses(found, tokens))
        agreed.append((expected.argmax(-1) == found.argmax(-1)).astype(np.float64))
    return Quality(
        sum(len(each) for each in float_losses),
        perplexity(float_losses),
        perplexity(exact_losses),
        float(np.concatenate(agreed).mean()),
    )


def _float_logits(model: Model, windows: Sequence[Tokens]) -> Iterator[tuple[Tokens, Floats]]:
    projection = head(model)
    for first in range(0, len(windows), BATCH):
        some = windows[first : first + BATCH]
        for tokens, states in zip(some, hidden(model, some), strict=True):
            yield tokens, states @ projection.T


def exact_logits(machine: LanguageMachine, tokens: Tokens) -> Floats:
    """The program's logits at every position, in the float model's unit: layers by the machine, the head by NumPy."""
    number = logits_of(machine.program)
    stream = stream_of(machine.program)
    values = machine.values(tokens.tolist(), stream).astype(np.int64)
    outputs = Prompt(machine.program, tokens).outputs(number + 1, (stream, values))
    found = next(value for index, value in outputs if index == number)
    return found / LOGIT_UNIT
