"""From a Llama-family GGUF to an exact program that generates: the recipe.

Rules:
1. Weights are int8 with one scale for each row. Activations that enter a matrix product have 12 bits and constant scales, from calibration
   text: SmoothQuant (arXiv 2211.10438, α = 1/2) moves what single channels have too much of into the weights beforehand, and what it
   divides by is folded into a norm's gain, or into the scales of the projection before.
2. The residual stream is int32 in units of a constant power of two. Keys and values are int8, each channel (of keys: each rotated pair)
   with its own scale, the inverse of which queries and the output projection carry.
3. Statistics are rounded up to eight significant bits before they shape anything, so that a last bit of a machine's floats does not
   make another program.

In letters: x ≈ integer · scale. `acc` is a raw sum of a product.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avow.exact.compile.emission import Emission
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.gguf_model import Floats, Model, Shape
from avow.exact.compile.leaves import with_leaves
from avow.exact.compile.llama_float import Layer, Tokens, norm, rotations
from avow.exact.program import Program, Source, Tensor
from avow.models.store import Progress, no_progress

MAX_CONTEXT = 2_048
HEAD_ROOM = 1.1
"""What is seen beyond the calibration's largest value before it is clamped."""
ACTIVATION = 2_047
CACHED = 127
WIDE = 32_767
PROBABILITY = 4_095
"""What the attention's weights sum to."""
EXPONENTIAL = 1 << 18
"""The exponential table's entry for 0: times PROBABILITY it stays below 2^30."""
SCORE_UNIT = 256
"""Of attention scores, per unit of the exponent."""
LOGIT_UNIT = 1 << 14
LOGIT_LIMIT = 1 << 26
RESIDUAL_LIMIT = (1 << 29) - 1
BRANCH_LIMIT = (1 << 28) - 1
RESIDUAL_BITS = 16
"""Below the point, at most."""
NORM_EXPONENT = -4
ROTATION_UNIT = 1 << 14
MIX_GAIN = 16
"""The attention's output has four bits more than the values that it mixes: 127 · 16 ≤ 2047."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`context`: the most positions of a run. `alpha`: SmoothQuant's."""

    context: int = 1_024
    alpha: float = 0.5


class Statistics:
    """The largest absolute value of each channel at each place of one layer."""

    def __init__(self) -> None:
        self._found: dict[str, Floats] = {}

    def observe(self, place: str, values: Floats) -> None:
        """Values [positions, channels]"""
        largest = np.abs(values).max(0)
        before = self._found.get(place)
        self._found[place] = largest if before is None else np.maximum(before, largest)

    def channels(self, place: str) -> Floats:
        """Rounded as rule 3 says, and not zero."""
        return rounded_up(np.maximum(self._found[place], 1e-6))

    def largest(self, place: str) -> float:
        return float(self.channels(place).max())


def rounded_up(values: Floats) -> Floats:
    """Positive values with eight significant bits, rounded up."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.ceil(mantissa * 256) / 256, exponent), np.float64)


def multipliers(factors: Floats) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """M < 2^15 and 1 ≤ s ≤ 45 with m·2^−s ≈ factor. Raises CannotCompile for factors out of reach."""
    mantissa, exponent = np.frexp(factors)
    m = np.rint(mantissa * (1 << 15)).astype(np.int64)
    carry = m == 1 << 15
    m = np.where(carry, 1 << 14, m)
    s = 15 - exponent.astype(np.int64) - carry
    tiny = np.clip(s - 45, 0, 14)
    m, s = np.maximum(m >> tiny, 1), s - tiny
    if (s < 1).any() or (s > 45).any():
        raise CannotCompile("a scale is beyond what a multiplier and a shift can say")
    return m.astype(np.int32), s.astype(np.int8)


def one_multiplier(factor: float) -> dict[str, int]:
    """As `multipliers`, as attributes m and s."""
    m, s = multipliers(np.array([factor]))
    return {"m": int(m[0]), "s": int(s[0])}


def quantised(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """[rows, columns] → int8 and one scale per row."""
    scales = np.maximum(np.abs(weights).max(1), 1e-12) / 127
    return np.rint(weights / scales[:, None]).astype(np.int8), scales


def smoothing(activations: Floats, weights: Sequence[Floats], alpha: float) -> Floats:
    """What to divide each channel of an activation by: largest |x|^α / largest |w|^(1 − α)."""
    columns = np.max([np.abs(each).max(0) for each in weights], 0)
    return rounded_up(activations**alpha / np.maximum(columns, 1e-6) ** (1 - alpha))


@dataclass(slots=True)
class _Draft:
    """The program as it grows, with what all layers share."""

    emit: Emission
    shape: Shape
    context: int
    residual_scale: float
    cosines: Source
    sines: Source
    exponentials: Source

    def linear(
        self,
        x: Source,
        weights: Floats,
        factor: Floats | float,
        kind: str,
        limit: int,
        shape: Sequence[int],
        phase: int = 0,
    ) -> Source:
        """X · weightsᵀ, where the product of the operands' own units, row by row, times `factor` is the output's integer."""
        integers, scales = quantised(weights)
        return self.linear_of(x, self.emit.constant(integers), scales, factor, kind, limit, shape, phase)

    def linear_of(
        self,
        x: Source,
        weights: Source,
        scales: Floats,
        factor: Floats | float,
        kind: str,
        limit: int,
        shape: Sequence[int],
        phase: int = 0,
    ) -> Source:
        """`linear` with weights that are constants already."""
        m, s = multipliers(scales * factor)
        inputs = (x, weights, self.emit.constant(m), self.emit.constant(s))
        return self.emit.operator("linear", inputs, kind, shape, -limit, limit, phase, bias=0, rescale=1)

    def norm(self, x: Source, gain: Floats, phase: int = 0) -> Source:
        """The norm of the residual stream; `gain` is in units of the output's integers."""
        width = self.shape.width
        wanted = gain * math.sqrt(width)
        exponent = math.frexp(float(np.abs(wanted).max()))[1] - 15  # |gamma| < 2^15
        gamma = np.rint(np.ldexp(wanted, -exponent)).astype(np.int64)
        if np.abs(gamma).max() == 1 << 15:
            exponent += 1
            gamma = np.rint(np.ldexp(wanted, -exponent)).astype(np.int64)
        if not -15 <= exponent <= 15:
            raise CannotCompile("a norm's gain is out of range", exponent=exponent)
        epsilon = width * self.shape.epsilon / self.residual_scale**2 * 4.0**-NORM_EXPONENT
        return self.emit.operator(
            "norm", (x, self.emit.constant(gamma.astype(np.int16))), "int16", (width,), -ACTIVATION, ACTIVATION, phase,
            mode=0, exponent=NORM_EXPONENT, epsilon=max(1, round(epsilon)), shift=max(0, exponent), beta=0, s=max(0, -exponent),
        )  # fmt: skip

    def added(self, x: Source, branch: Source) -> Source:
        """The residual stream after a branch."""
        return self.emit.operator(
            "add", (x, branch), "int32", x.shape, -RESIDUAL_LIMIT, RESIDUAL_LIMIT, ma=1, mb=1, s=0
        )


def _attention(draft: _Draft, x: Source, layer: Layer, seen: Statistics, alpha: float) -> Source:
    shape, pairs = draft.shape, draft.shape.head // 2
    smooth = smoothing(seen.channels("attention_input"), (layer.query, layer.key, layer.value), alpha)
    unit = float((seen.channels("attention_input") / smooth).max()) * HEAD_ROOM / ACTIVATION
    h = draft.norm(x, layer.attention_norm / (smooth * unit))
    share = shape.heads // shape.groups
    # Both channels of a rotated pair have one scale, so that the rotation commutes with it.
    key_scale = seen.channels("key").reshape(shape.groups, pairs, 2).max(2) * HEAD_ROOM / CACHED
    query_most = seen.channels("query").reshape(shape.heads, pairs, 2).max(2)
    by_head = np.repeat(key_scale, share, axis=0)
    product_scale = float((query_most * by_head).max()) * HEAD_ROOM / ACTIVATION
    query_scale = product_scale / by_head
    value_scale = seen.channels("value") * HEAD_ROOM / CACHED
    q = draft.linear(
        h, layer.query * smooth, unit / np.repeat(query_scale, 2), "int16", ACTIVATION, (shape.heads, shape.head)
    )
    k = draft.linear(h, layer.key * smooth, unit / np.repeat(key_scale, 2), "int8", CACHED, (shape.groups, shape.head))
    v = draft.linear(h, layer.value * smooth, unit / value_scale, "int8", CACHED, (shape.groups * shape.head,))
    q, k = (draft.emit.operator(
        "rope", (row, draft.cosines, draft.sines), row.type, row.shape, -limit, limit, interleaved=1
    ) for row, limit in ((q, ACTIVATION), (k, CACHED)))  # fmt: skip
    keys, values = draft.emit.append(k, 0), draft.emit.append(v, 1)
    score = one_multiplier(product_scale / math.sqrt(shape.head) * SCORE_UNIT)
    scores = draft.emit.operator("scores", (q, keys), "int16", (shape.heads, -1), -WIDE, WIDE, **score)
    weights = draft.emit.operator(
        "softmax", (scores, draft.exponentials), "int16", (shape.heads, -1), 0, PROBABILITY, one=PROBABILITY
    )
    mixed = draft.emit.operator(
        "mix",
        (weights, values),
        "int16",
        (shape.heads, shape.head),
        -ACTIVATION,
        ACTIVATION,
        **one_multiplier(MIX_GAIN / PROBABILITY),
    )
    carried = np.repeat(value_scale.reshape(shape.groups, shape.head), share, axis=0).reshape(-1) / MIX_GAIN
    branch = draft.linear(
        mixed, layer.output * carried, 1 / draft.residual_scale, "int32", BRANCH_LIMIT, (shape.width,)
    )
    return draft.added(x, branch)


def _feed_forward(draft: _Draft, x: Source, layer: Layer, seen: Statistics, alpha: float) -> Source:
    inner = (draft.shape.inner,)
    smooth = smoothing(seen.channels("inner_input"), (layer.gate, layer.up), alpha)
    unit = float((seen.channels("inner_input") / smooth).max()) * HEAD_ROOM / ACTIVATION
    h = draft.norm(x, layer.inner_norm / (smooth * unit))
    gate_scale = seen.largest("gate") * HEAD_ROOM / ACTIVATION
    silu_scale = seen.largest("silu") * HEAD_ROOM / ACTIVATION
    gate = draft.linear(h, layer.gate * smooth, unit / gate_scale, "int16", ACTIVATION, inner)
    exact = np.arange(-ACTIVATION, ACTIVATION + 1) * gate_scale
    entries = np.clip(np.rint(exact / (1 + np.exp(-exact)) / silu_scale), -ACTIVATION, ACTIVATION).astype(np.int16)
    silu = draft.emit.operator(
        "table", (gate, draft.emit.constant(entries)), "int16", inner, int(entries.min()), int(entries.max())
    )
    # The product's smoothing comes by way of the up projection's scales.
    down_smooth = smoothing(seen.channels("product"), (layer.down,), alpha)
    down_unit = float((seen.channels("product") / down_smooth).max()) * HEAD_ROOM / ACTIVATION
    common = float((seen.channels("up") / down_smooth).max()) * HEAD_ROOM / WIDE
    up = draft.linear(h, layer.up * smooth, unit / (common * down_smooth), "int16", WIDE, inner)
    product = draft.emit.operator(
        "mul", (silu, up), "int16", inner, -ACTIVATION, ACTIVATION, **one_multiplier(silu_scale * common / down_unit)
    )
    branch = draft.linear(
        product, layer.down * down_smooth, down_unit / draft.residual_scale, "int32", BRANCH_LIMIT, (draft.shape.width,)
    )
    return draft.added(x, branch)


def _ends(draft: _Draft, model: Model, seen: Statistics, x: Source, embedding: tuple[Source, Floats]) -> Source:
    """Final norm, head, noise, choice: phase 1."""
    unit = seen.largest("final") * HEAD_ROOM / ACTIVATION
    h = draft.norm(x, model.weights("output_norm") / unit, phase=1)
    vocabulary = (draft.shape.vocabulary,)
    if draft.shape.tied:
        weights, scales = embedding
        logits = draft.linear_of(h, weights, scales, unit * LOGIT_UNIT, "int32", LOGIT_LIMIT, vocabulary, 1)
    else:
        logits = draft.linear(h, model.weights("output"), unit * LOGIT_UNIT, "int32", LOGIT_LIMIT, vocabulary, 1)
    draw = (np.arange(1 << 16) + 0.5) / (1 << 16)
    noise = draft.emit.constant(np.rint(-np.log(-np.log(draw)) * LOGIT_UNIT).astype(np.int32))
    limit = (1 << 30) - 1
    scores = draft.emit.operator("gumbel", (logits, noise), "int32", vocabulary, -limit, limit, 1)
    return draft.emit.operator("argmax", (scores,), "int32", (1,), 0, draft.shape.vocabulary - 1, 1)


def compile_llama(
    model: Model,
    windows: Sequence[Tokens],
    settings: Settings = Settings(),
    progress: Progress = no_progress,
    notes: Mapping[str, str] | None = None,
) -> Program:
    """The exact program. `windows`: tokens of the calibration texts. Raises CannotCompile, BadProgram."""
    if not 1 <= settings.context <= min(MAX_CONTEXT, model.shape.context):
        raise CannotCompile(
            "the context is out of range", context=settings.context, limit=min(MAX_CONTEXT, model.shape.context)
        )
    if not windows or any(len(window) < 2 for window in windows):
        raise CannotCompile("there is no text to calibrate with")
    statistics, final = calibrate(model, windows, progress)
    draft, x, embedding = _begin(model, settings, max(each.largest("residual") for each in statistics))
    for number, seen in enumerate(statistics):
        progress(number, model.shape.layers, "quantising")
        layer = Layer(model, number)
        x = _attention(draft, x, layer, seen, settings.alpha)
        x = _feed_forward(draft, x, layer, seen, settings.alpha)
    chosen = _ends(draft, model, final, x, embedding)
    draft.emit.close(chosen)
    progress(model.shape.layers, model.shape.layers, "quantising")
    whole = Program.build(
        name=model.name,
        mode="generate",
        context=settings.context,
        inputs=(Tensor("int32", (1,), 0, model.shape.vocabulary - 1),),
        constants=draft.emit.constants,
        operators=draft.emit.operators,
        outputs=(chosen.id,),
        end=model.end,
        token=chosen.id,
        notes={"logit_unit": str(LOGIT_UNIT), "residual_scale": repr(draft.residual_scale), **(notes or {})},
    )
    return with_leaves(whole)


def calibrate(
    model: Model, windows: Sequence[Tokens], progress: Progress = no_progress
) -> tuple[list[Statistics], Statistics]:
    """What each layer sees of the calibration texts, and what the head sees."""
    embedding = model.weights("token_embd")
    streams = [embedding[window] for window in windows]
    found = []
    for number in range(model.shape.layers):
        progress(number, model.shape.layers, "calibrating")
        layer, seen = Layer(model, number), Statistics()
        streams = [layer(x, seen.observe) for x in streams]
        found.append(seen)
    final = Statistics()
    for x in streams:
        final.observe("final", norm(x, model.weights("output_norm"), model.shape.epsilon))
    return found, final


def _begin(model: Model, settings: Settings, largest: float) -> tuple[_Draft, Source, tuple[Source, Floats]]:
    """The token, its embedding, and the tables that all layers share. `largest`: of the residual stream."""
    shape, emit = model.shape, Emission()
    # Two bits of head-room: the stream's largest channels are those that calibration text sees least of.
    residual_scale = 2.0 ** -min(RESIDUAL_BITS, math.floor(math.log2((RESIDUAL_LIMIT + 1) / (4 * largest))))
    cosines, sines = (
        emit.constant(np.rint(values * ROTATION_UNIT).astype(np.int16)) for values in rotations(shape, settings.context)
    )
    steps = np.arange(math.ceil(SCORE_UNIT * math.log(2 * EXPONENTIAL)) + 1)
    exponentials = emit.constant(np.rint(EXPONENTIAL * np.exp(-steps / SCORE_UNIT)).astype(np.int32))
    draft = _Draft(emit, shape, settings.context, residual_scale, cosines, sines, exponentials)
    token = emit.token(shape.vocabulary)
    integers, scales = quantised(model.weights("token_embd"))
    weights = emit.constant(integers)
    m, s = multipliers(scales / residual_scale)
    inputs = (weights, token, emit.constant(m), emit.constant(s))
    x = emit.operator("gather", inputs, "int32", (shape.width,), -BRANCH_LIMIT, BRANCH_LIMIT, rescale=1)
    return draft, x, (weights, scales)
