"""Operators that treat each element alone, in float64: what tables are made of.

Evaluated in numpy and the standard library's double precision, so that tables come out the same on every machine (a last bit of a double
decides a rounding once in 10^11 entries; a last bit of a float32 would once in 10^3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from avow.exact.compile.runtime import Array

Attributes = Mapping[str, Any]
Function = Callable[[Sequence[Array], Attributes], Array]

_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -700, 700))))


def _erf_array(x: Array) -> Array:
    return np.asarray(_erf(x), dtype=np.float64)


def _clip(values: Sequence[Array], attributes: Attributes) -> Array:
    low = values[1] if len(values) > 1 and values[1] is not None else attributes.get("min", -np.inf)
    high = values[2] if len(values) > 2 and values[2] is not None else attributes.get("max", np.inf)
    return np.minimum(np.maximum(values[0], low), high)


def _gelu(values: Sequence[Array], attributes: Attributes) -> Array:
    x = values[0]
    if attributes.get("approximate", "none") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf_array(x / math.sqrt(2))))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _where(condition: Array, a: Array, b: Array) -> Array:
    return np.asarray(np.where(np.asarray(condition) != 0, a, b))


def _fold(function: Callable[[Array, Array], Array]) -> Function:
    def folded(values: Sequence[Array], _attributes: Attributes) -> Array:
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result

    return folded


def _of(function: Callable[..., Array]) -> Function:
    return lambda values, _attributes: np.asarray(function(*values))


ELEMENTWISE: Mapping[str, Function] = {
    "Abs": _of(np.abs),
    "Add": _of(np.add),
    "And": _of(lambda a, b: np.logical_and(a, b).astype(np.float64)),
    "Ceil": _of(np.ceil),
    "Celu": lambda v, a: _elu(v[0] / a.get("alpha", 1.0), 1.0) * a.get("alpha", 1.0),
    "Clip": _clip,
    "Cos": _of(np.cos),
    "Div": _of(np.divide),
    "Elu": lambda v, a: _elu(v[0], a.get("alpha", 1.0)),
    "Equal": _of(lambda a, b: np.equal(a, b).astype(np.float64)),
    "Erf": _of(_erf_array),
    "Exp": _of(np.exp),
    "Floor": _of(np.floor),
    "Gelu": _gelu,
    "Greater": _of(lambda a, b: np.greater(a, b).astype(np.float64)),
    "GreaterOrEqual": _of(lambda a, b: np.greater_equal(a, b).astype(np.float64)),
    "HardSigmoid": lambda v, a: np.clip(v[0] * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1),
    "HardSwish": _of(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": lambda v, a: np.where(v[0] >= 0, v[0], v[0] * a.get("alpha", 0.01)),
    "Less": _of(lambda a, b: np.less(a, b).astype(np.float64)),
    "LessOrEqual": _of(lambda a, b: np.less_equal(a, b).astype(np.float64)),
    "Log": _of(np.log),
    "Max": _fold(np.maximum),
    "Mean": lambda v, _a: np.asarray(sum(v) / len(v)),
    "Min": _fold(np.minimum),
    "Mish": _of(lambda x: x * np.tanh(np.logaddexp(0, x))),
    "Mul": _of(np.multiply),
    "Neg": _of(np.negative),
    "Not": _of(lambda a: np.logical_not(a).astype(np.float64)),
    "Or": _of(lambda a, b: np.logical_or(a, b).astype(np.float64)),
    "PRelu": _of(lambda x, slope: np.where(x >= 0, x, x * slope)),
    "Pow": _of(np.power),
    "Reciprocal": _of(np.reciprocal),
    "Relu": _of(lambda x: np.maximum(x, 0)),
    "Round": _of(np.rint),
    "Selu": lambda v, a: a.get("gamma", 1.0507009873554805) * _elu(v[0], a.get("alpha", 1.6732632423543772)),
    "Sigmoid": _of(_sigmoid),
    "Sign": _of(np.sign),
    "Sin": _of(np.sin),
    "Softplus": _of(lambda x: np.logaddexp(0, x)),
    "Softsign": _of(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _of(np.sqrt),
    "Sub": _of(np.subtract),
    "Sum": _fold(np.add),
    "Tanh": _of(np.tanh),
    "ThresholdedRelu": lambda v, a: np.where(v[0] > a.get("alpha", 1.0), v[0], 0.0),
    "Where": _of(_where),
}
"""ONNX operator → its meaning on float64 arrays that broadcast; truth values are 0 and 1."""


def evaluate(operator: str, values: Sequence[Array | None], attributes: Attributes) -> Array:
    """One operator on its inputs, float64; an optional input that is not there is None."""
    doubles: list[Any] = [None if value is None else np.asarray(value, dtype=np.float64) for value in values]
    with np.errstate(all="ignore"):
        return np.asarray(ELEMENTWISE[operator](doubles, attributes), dtype=np.float64)
