"""The float model that an exact program is measured against, layer by layer, and what calibration sees of it.

Everything is float64, so that the statistics below, which are rounded to eight bits, come out alike on every machine.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from avow.exact.compile.gguf_model import Floats, Model, Shape
from avow.models.store import Progress, no_progress

Tokens = npt.NDArray[np.int64]
Observe = Callable[[str, Floats], None]
"""Called with a place's name and its values [positions, channels]."""

PLACES = (
    "attention_input",
    "query",
    "key",
    "value",
    "score",
    "inner_input",
    "gate",
    "up",
    "silu",
    "product",
    "residual",
)


def no_observer(_place: str, _values: Floats) -> None:
    """For runs that are not calibrations."""


def rotations(shape: Shape, positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines [positions, head/2] of the rotary embedding."""
    inverse = shape.rotation_base ** (-np.arange(0, shape.head, 2, dtype=np.float64) / shape.head)
    angles = np.arange(positions, dtype=np.float64)[:, None] * inverse
    return np.cos(angles), np.sin(angles)


def norm(x: Floats, gain: Floats, epsilon: float) -> Floats:
    """Root mean square norm of each row."""
    return np.asarray(x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * gain)


def _rotate(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """X [positions, heads, head], neighbouring channels as pairs."""
    result = np.empty_like(x)
    even, odd = x[..., 0::2], x[..., 1::2]
    result[..., 0::2] = even * cosines[:, None] - odd * sines[:, None]
    result[..., 1::2] = even * sines[:, None] + odd * cosines[:, None]
    return result


def _attention(q: Floats, k: Floats, v: Floats, observe: Observe) -> Floats:
    """Causal attention: q [positions, heads, head], k and v [positions, groups, head]."""
    count, heads, head = q.shape
    share = heads // k.shape[1]
    result = np.empty_like(q)
    later = np.triu(np.ones((count, count), bool), 1)
    for number in range(heads):
        scores = q[:, number] @ k[:, number // share].T / math.sqrt(head)
        scores[later] = 0
        observe("score", scores.reshape(-1, 1))
        scores[later] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        result[:, number] = weights / weights.sum(-1, keepdims=True) @ v[:, number // share]
    return result


class Layer:
    """One layer's weights."""

    def __init__(self, model: Model, number: int) -> None:
        self.shape = model.shape
        names = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        (
            self.attention_norm, self.query, self.key, self.value, self.output,
            self.inner_norm, self.gate, self.up, self.down,
        ) = (model.weights(f"blk.{number}.{name}") for name in names)  # fmt: skip

    def __call__(self, x: Floats, observe: Observe = no_observer) -> Floats:
        """X [positions, width] → the same after this layer."""
        shape, count = self.shape, len(x)
        cosines, sines = rotations(shape, count)
        h = norm(x, self.attention_norm, shape.epsilon)
        observe("attention_input", h)
        q = _rotate((h @ self.query.T).reshape(count, shape.heads, shape.head), cosines, sines)
        k = _rotate((h @ self.key.T).reshape(count, shape.groups, shape.head), cosines, sines)
        v = (h @ self.value.T).reshape(count, shape.groups, shape.head)
        for place, values in (("query", q), ("key", k), ("value", v)):
            observe(place, values.reshape(count, -1))
        x = x + _attention(q, k, v, observe).reshape(count, -1) @ self.output.T
        observe("residual", x)
        h = norm(x, self.inner_norm, shape.epsilon)
        observe("inner_input", h)
        gate, up = h @ self.gate.T, h @ self.up.T
        silu = gate / (1 + np.exp(-gate))
        product = silu * up
        for place, values in (("gate", gate), ("up", up), ("silu", silu), ("product", product)):
            observe(place, values)
        x = x + product @ self.down.T
        observe("residual", x)
        return x


def hidden(model: Model, windows: Sequence[Tokens], progress: Progress = no_progress) -> list[Floats]:
    """The final norm's output [positions, width] for each window of tokens."""
    embedding = model.weights("token_embd")
    streams = [embedding[window] for window in windows]
    for number in range(model.shape.layers):
        progress(number, model.shape.layers, "running the float model")
        layer = Layer(model, number)
        streams = [layer(x) for x in streams]
    gain = model.weights("output_norm")
    return [norm(x, gain, model.shape.epsilon) for x in streams]


def head(model: Model) -> Floats:
    """The output projection [vocabulary, width]."""
    return model.weights("token_embd" if model.shape.tied else "output")


def losses(logits: Floats, tokens: Tokens) -> Floats:
    """−log p of tokens[1:], given logits [positions, vocabulary] at each position."""
    before = logits[:-1]
    largest = before.max(-1, keepdims=True)
    total = largest[:, 0] + np.log(np.exp(before - largest).sum(-1))
    return np.asarray(total - before[np.arange(len(before)), tokens[1:]], np.float64)


def perplexity(values: Iterable[Floats]) -> float:
    """Exp of the mean loss over all windows."""
    joined = np.concatenate(list(values))
    return float(np.exp(joined.mean()))
