"""Exact programs of usual shapes against onnxruntime's float32 on one thread: what the kernels alone are worth.

Weights are random: the figures are about speed, and the same layers stand on both sides.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from avow.exact.compile.leaves import with_leaves
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.program import INPUT, OPERATOR, Constant, Operator, Program, Source, Tensor
from avow.exact.specification import bounds
from benchmarks.exact_pair import compare
from benchmarks.report import Benchmark, main

OPSET = 17


@dataclass
class Twin:
    """One list of layers as an exact program (channels last) and as a float model (channels first)."""

    shape: tuple[int, ...]
    """[H, W, C], or [N]"""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    constants: list[Constant] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input = self.shape
        self.tensor = Tensor("int8", self.shape, -127, 127)
        source = Source(INPUT, 0, "int8", self.shape, -127, 127)
        self.at = self.emit("input", (source,), self.shape, "int8", -127, 127)
        self.name = "x"

    # --- The exact side

    def emit(self, kind: str, sources: Any, shape: Any, width: str, low: int, high: int, **attributes: Any) -> Source:
        self.operators.append(Operator(kind, tuple(sources), width, tuple(shape), low, high, 0, attributes))
        self.shape = tuple(shape)
        self.at = self.operators[-1].source(OPERATOR, len(self.operators) - 1)
        return self.at

    def constant(self, values: Any) -> Source:
        constant = Constant.of(values.dtype.name, values.shape, values.tobytes())
        self.constants.append(constant)
        return constant.source(len(self.constants) - 1)

    def scaled(self, outputs: int, depth: int) -> list[Source]:
        """Bias, multiplier and shift that bring a sum of `depth` products to 8 bits."""
        shift = int(np.ceil(np.log2(127 * 40 * np.sqrt(depth) / 60))) + 14
        multipliers = self.random.integers(1 << 14, 1 << 15, outputs, dtype=np.int64).astype(np.int32)
        return [
            self.constant(self.random.integers(-999, 999, outputs, dtype=np.int64).astype(np.int32)),
            self.constant(multipliers), self.constant(np.full(outputs, shift, np.int8)),
        ]  # fmt: skip

    def integers(self, *shape: int) -> Any:
        return self.random.integers(-127, 128, shape, dtype=np.int64).astype(np.int8)

    # --- The float side

    def node(self, kind: str, inputs: Any, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self.name = name
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = (self.random.standard_normal(shape) / np.sqrt(max(1, prod(shape[1:])))).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def vector(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values), name))
        return name

    # --- Both

    def conv(self, outputs: int, kernel: int, *, stride: int = 1, depthwise: bool = False, relu: bool = True) -> None:
        height, width, channels = self.shape
        outputs, groups = (channels, channels) if depthwise else (outputs, 1)
        pad = kernel // 2
        w = self.constant(self.integers(outputs, kernel, kernel, channels // groups))
        rest = self.scaled(outputs, kernel * kernel * channels // groups)
        out = [(extent + 2 * pad - kernel) // stride + 1 for extent in (height, width)]
        self.emit(
            "conv", (self.at, w, *rest), (*out, outputs), "int8", 0 if relu else -127, 127, bias=1, rescale=1, groups=groups,
            stride=(stride, stride), pad=(pad,) * 4, dilation=(1, 1),
        )  # fmt: skip
        inputs = (self.name, self.weight(outputs, channels // groups, kernel, kernel), self.weight(outputs))
        self.node("Conv", inputs, strides=[stride] * 2, pads=[pad] * 4, group=groups)
        if relu:
            self.node("Relu", [self.name])

    def hard_swish(self) -> None:
        values = np.arange(-127, 128) / 16
        table = np.rint(16 * values * np.clip(values / 6 + 0.5, 0, 1)).astype(np.int8)
        self.emit("table", (self.at, self.constant(table)), self.shape, "int8", -127, 127)
        self.node("HardSwish", [self.name])

    def squeeze(self) -> None:
        """Squeeze and excite: mean, two dense layers, scale."""
        before, name = self.at, self.name
        height, width, channels = self.shape
        shift = int(np.log2(height * width)) + 14
        flat = self.emit("reshape", (self.at,), (height * width, channels), "int8", *before.interval)
        self.emit(
            "reduce",
            (flat,),
            (1, channels),
            "int8",
            -127,
            127,
            axis=0,
            mode=1,
            block=65_536,
            rescale=1,
            m=1 << 14,
            s=shift,
        )
        self.node("GlobalAveragePool", [self.name])
        for outputs, relu in ((channels // 4, True), (channels, False)):
            w = self.constant(self.integers(outputs, self.shape[-1]))
            self.emit(
                "linear",
                (self.at, w, *self.scaled(outputs, self.shape[-1])),
                (1, outputs),
                "int8",
                0 if relu else -127,
                127,
                bias=1,
                rescale=1,
            )
            self.node("Conv", (self.name, self.weight(outputs, w.shape[1], 1, 1), self.weight(outputs)))
            if relu:
                self.node("Relu", [self.name])
        table = np.rint(127 * np.clip(np.arange(-127, 128) / 96 + 0.5, 0, 1)).astype(np.int8)
        gate = self.emit("table", (self.at, self.constant(table)), self.shape, "int8", 0, 127)
        self.node("HardSigmoid", [self.name])
        self.emit("mul", (before, gate), (height, width, channels), "int8", -127, 127, m=1 << 14, s=21)
        self.node("Mul", [name, self.name])

    def pool(self, size: int, mode: int) -> None:
        height, width, channels = self.shape
        rescale = {"rescale": 1, "m": 1 << 14, "s": 14 + 2 * (size // 2)} if mode else {"rescale": 0}
        self.emit(
            "pool", (self.at,), (height // size, width // size, channels), "int8", -127, 127, mode=mode, kernel=(size, size),
            stride=(size, size), pad=(0, 0, 0, 0), **rescale,
        )  # fmt: skip
        self.node("AveragePool" if mode else "MaxPool", [self.name], kernel_shape=[size] * 2, strides=[size] * 2)

    def flatten(self) -> None:
        self.emit("reshape", (self.at,), (prod(self.shape),), "int8", *self.at.interval)
        self.node("Flatten", [self.name])

    def dense(self, outputs: int, *, relu: bool = True) -> None:
        depth = prod(self.shape)
        w = self.constant(self.integers(outputs, depth))
        self.emit(
            "linear",
            (self.at, w, *self.scaled(outputs, depth)),
            (outputs,),
            "int8",
            0 if relu else -127,
            127,
            bias=1,
            rescale=1,
        )
        self.node("Gemm", (self.name, self.weight(outputs, depth), self.weight(outputs)), transB=1)
        if relu:
            self.node("Relu", [self.name])

    def built(self, name: str) -> tuple[Program, bytes]:
        program = Program.build(
            name=name, mode="once", context=4096, inputs=[self.tensor], constants=self.constants, operators=self.operators,
            outputs=[len(self.operators) - 1], notes={**_note("input.0", self.input), **_note("output.0", self.shape)},
        )  # fmt: skip
        program = with_leaves(program)
        bounds.check(program, FastStatistics())
        shape = [1, self.input[2], *self.input[:2]] if len(self.input) == 3 else [1, *self.input]
        graph = helper.make_graph(
            self.nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.name, TensorProto.FLOAT, None)], self.weights,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        return program, model.SerializeToString()


def _note(end: str, shape: tuple[int, ...]) -> dict[str, str]:
    """That an end's integers stand for themselves."""
    own = {"name": end, "type": "float32", "shape": ",".join(map(str, shape)), "scale": "1.0", "rounding": "nearest"}
    return {f"{end}.{key}": value for key, value in own.items()}


def mlp() -> Twin:
    twin = Twin((64,))
    for outputs in (128, 64):
        twin.dense(outputs)
    twin.dense(10, relu=False)
    return twin


def lenet() -> Twin:
    twin = Twin((28, 28, 1))
    for outputs in (6, 16):
        twin.conv(outputs, 5)
        twin.pool(2, 0)
    twin.flatten()
    for outputs in (120, 84):
        twin.dense(outputs)
    twin.dense(10, relu=False)
    return twin


def mobile(height: int = 48, width: int = 192) -> Twin:
    """Depthwise-separable blocks with squeeze-and-excite and hard-swish, as light text recognisers have them."""
    twin = Twin((height, width, 3))
    twin.conv(16, 3, stride=2, relu=False)
    twin.hard_swish()
    for outputs, kernel, stride, squeeze in (
        (32, 3, 1, False), (64, 3, 2, False), (64, 3, 1, False), (128, 3, 2, False), (128, 3, 1, False), (128, 5, 1, False),
        (256, 5, 2, True), (256, 5, 1, True), (256, 5, 1, True),
    ):  # fmt: skip
        twin.conv(0, kernel, stride=stride, depthwise=True, relu=False)
        twin.hard_swish()
        if squeeze:
            twin.squeeze()
        twin.conv(outputs, 1, relu=False)
        twin.hard_swish()
    return twin


def run() -> Benchmark:
    benchmark = Benchmark(
        "exact-kernels", "Exact programs beside onnxruntime float32, one thread (least CPU time of a call)"
    )
    for name, twin in (("MLP 64-128-64-10", mlp()), ("LeNet 28x28", lenet()), ("mobile 48x192", mobile())):
        program, model = twin.built(name)
        shape = [1, twin.input[2], *twin.input[:2]] if len(twin.input) == 3 else [1, *twin.input]
        feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        compare(benchmark, name, program, model, feeds)
    return benchmark


if __name__ == "__main__":
    main(run)
