"""A float model as a flat graph: constants folded, branches decided, every shape known.

Rules:
1. The bytes pass models/onnx.py first. Then every operator, those of subgraphs included, is one of SUPPORTED or the error names all
   that are not, with their places.
2. The caller fixes what is free: the shapes of the inputs, and the inputs that are constants (a sample rate). Batches are of one.
3. The graph is walked once, in order, on one sample: a node whose inputs are all constant is a constant, so is what depends on
   shapes alone; an `If` whose condition is constant is replaced by the branch taken. What is left depends on the inputs' values.

ONNX Runtime evaluates single nodes: it defines the float model that an exact program is compared with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from avow.exact.compile.elementwise import ELEMENTWISE
from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.compile.runtime import Array, run_model
from avow.models.errors import UnsafeModel
from avow.models.onnx import check_onnx

MAX_MODEL = 1 << 30
MAX_NODES = 50_000
OPSETS = range(7, 24)

STATIC = frozenset({
    "Constant", "ConstantOfShape", "EyeLike", "If", "NonZero", "Range", "Shape", "Size", "Tile",
})  # fmt: skip
"""Operators that must be constant, or decided, once the shapes are known."""
MOVES = frozenset({
    "Cast", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that move values and change none."""
COMPUTES = frozenset({
    "AveragePool", "BatchNormalization", "Conv", "GRU", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "LSTM",
    "LayerNormalization", "MatMul", "MaxPool", "OneHot", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare",
    "Softmax",
})  # fmt: skip
TREES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor", "ZipMap", "Normalizer"})
"""Of the domain ai.onnx.ml; a graph with one of the first two is trees.py's."""
SUPPORTED = STATIC | MOVES | COMPUTES | frozenset(ELEMENTWISE)


@dataclass(slots=True)
class Node:
    """One operator: what it is, what it reads and gives (names), its attributes, and where it stood, for people."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    place: str


@dataclass(slots=True)
class Graph:
    """What is left of a model: nodes in order, constants by name, shape and numpy type of every other value."""

    nodes: list[Node]
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    output_names: list[str]
    opset: int
    states: dict[str, str] = field(default_factory=dict)
    """Input → the output that is its value at the next step."""
    measured: dict[str, str] = field(default_factory=dict)
    """Value that a rewrite made → the value of the float model whose numbers it has, in another shape at most."""

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def producers(self) -> dict[str, Node]:
        """The node that gives each value."""
        return {name: node for node in self.nodes for name in node.outputs}

    def rename(self, names: Mapping[str, str]) -> None:
        """Lets every reader of a name read another instead; chains are followed."""

        def final(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        for node in self.nodes:
            node.inputs = [final(name) for name in node.inputs]
        self.outputs = [final(name) for name in self.outputs]
        self.states = {name: final(value) for name, value in self.states.items()}

    def dynamic(self, node: Node) -> list[str]:
        """The inputs of a node that are no constants."""
        return [name for name in node.inputs if name and name not in self.constants]

    def copy(self) -> "Graph":
        """A graph of its own; constants, which nobody changes, are shared."""
        return Graph(
            [
                Node(node.operator, list(node.inputs), list(node.outputs), dict(node.attributes), node.place)
                for node in self.nodes
            ],
            dict(self.constants),
            dict(self.shapes),
            dict(self.types),
            list(self.inputs),
            list(self.outputs),
            list(self.output_names),
            self.opset,
            dict(self.states),
            dict(self.measured),
        )

    def drop_unused(self) -> None:
        """Removes nodes that no output depends on, and the constants that then nobody reads."""
        wanted = {*self.outputs, *self.states.values()}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in wanted}


def read_model(data: bytes) -> Any:
    """The parsed model, if its bytes are sound and every operator is known (rule 1). Raises UnsafeModel, UnsupportedOperators."""
    import onnx

    if len(data) > MAX_MODEL:
        raise CannotCompile("the model is too large", size=len(data), limit=MAX_MODEL)
    check_onnx(data, {})
    broken: type[Exception] = import_module("google.protobuf.message").DecodeError
    try:
        model = onnx.load_from_string(data)
    except broken as error:
        raise UnsafeModel("the bytes are no ONNX model") from error
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("", versions.get("ai.onnx", 7)) not in OPSETS:
        raise CannotCompile(
            "an operator set that is not known here", found=versions.get("", 0), known=f"7 to {OPSETS[-1]}"
        )
    strangers = [
        f"{node.domain + '.' if node.domain else ''}{node.op_type} at {place}"
        for node, place in _walk(model.graph, "")
        if not _known(node)
    ]
    if strangers:
        raise UnsupportedOperators(strangers)
    if len(model.functions):
        raise CannotCompile("functions of the model's own are not compiled", found=model.functions[0].name[:64])
    return model


def _known(node: Any) -> bool:
    if node.domain == "ai.onnx.ml":
        return node.op_type in TREES
    return node.domain in ("", "ai.onnx") and node.op_type in SUPPORTED


def _walk(graph: Any, inside: str) -> Iterator[tuple[Any, str]]:
    for index, node in enumerate(graph.node):
        place = _place(node, index, inside)
        yield node, place
        for attribute in node.attribute:
            if attribute.type == 5:  # GRAPH
                yield from _walk(attribute.g, f"{place}, {attribute.name}")


def _alias(names: Mapping[str, str], name: Any) -> str:
    """What a name stands for: itself, if for nothing else."""
    found: str = names.get(name, name)
    return found


def _place(node: Any, index: int, inside: str) -> str:
    name = node.name or (node.output[0] if node.output else "")
    return f"node {index} ({name[:96]}){' in ' + inside if inside else ''}"


def flatten(model: Any, sample: Mapping[str, Array], fixed: Mapping[str, Array]) -> Graph:
    """The flat graph of a model for inputs of the sample's shapes; `fixed` inputs become constants (rules 2 and 3).

    Raises CannotCompile: an input that is neither given nor fixed, a branch that depends on data, an operator that has to be constant
    and is not.
    """
    walker = _Walker(model)
    for tensor in model.graph.initializer:
        walker.constants[tensor.name] = _to_array(tensor)
    inputs = []
    for value in model.graph.input:
        if value.name in fixed:
            walker.constants[value.name] = fixed[value.name]
        elif value.name in sample:
            walker.live[value.name] = sample[value.name]
            inputs.append(value.name)
        elif value.name not in walker.constants:
            raise CannotCompile("an input has no sample and no fixed value", input=value.name[:96])
    walker.graph(model.graph, "", {})
    names = [value.name for value in model.graph.output]
    outputs = [_alias(walker.alias, name) for name in names]
    graph = Graph(
        nodes=walker.nodes,
        constants=walker.constants,
        shapes={name: tuple(value.shape) for name, value in walker.live.items()},
        types={name: value.dtype for name, value in walker.live.items()},
        inputs=inputs,
        outputs=outputs,
        output_names=names,
        opset=walker.opset,
    )
    graph.drop_unused()
    return graph


class _Walker:
    """Walks a model once on a sample. `live` holds the sample's value of all that depends on the inputs."""

    def __init__(self, model: Any) -> None:
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=7)
        self.constants: dict[str, Array] = {}
        self.live: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self.alias: dict[str, str] = {}

    def graph(self, graph: Any, inside: str, names: dict[str, str]) -> None:
        """Walks a graph; `names` maps the names of an inlined branch to unique ones."""
        for tensor in graph.initializer if inside else ():
            names[tensor.name] = inside + tensor.name
            self.constants[inside + tensor.name] = _to_array(tensor)
        for index, node in enumerate(graph.node):
            place = _place(node, index, inside)
            inputs = [self.resolve(_alias(names, name)) for name in node.input]
            for name in node.output if inside else ():
                names[name] = inside + name
            outputs = [_alias(names, name) for name in node.output]
            self.node(node, inputs, outputs, place, names)

    def resolve(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def node(self, node: Any, inputs: list[str], outputs: list[str], place: str, names: dict[str, str]) -> None:
        for name in inputs:
            if name and name not in self.constants and name not in self.live:
                raise CannotCompile("a value is read before it is made", place=place, name=name[:96])
        if node.op_type == "If":
            self.branch(node, inputs[0], outputs, place, names)
        elif node.op_type in ("Shape", "Size") and inputs[0] in self.live:
            shape = self.live[inputs[0]].shape
            value = np.array(shape, dtype=np.int64)
            if node.op_type == "Shape":
                given = {item.name: item.i for item in node.attribute}
                value = value[given.get("start", 0) : given.get("end", len(shape))]
            self.constants[outputs[0]] = (
                value if node.op_type == "Shape" else np.array(int(np.prod(shape)), dtype=np.int64)
            )
        else:
            self.compute(node, inputs, outputs, place)
        if len(self.nodes) > MAX_NODES:
            raise CannotCompile("too many operators", limit=MAX_NODES)

    def branch(self, node: Any, condition: str, outputs: list[str], place: str, names: dict[str, str]) -> None:
        decided = self.constants.get(condition)
        if decided is None:
            raise CannotCompile(
                "a branch depends on data", place=place, hint="fix the input that decides it: --set NAME=VALUE"
            )
        wanted = "then_branch" if bool(decided.reshape(-1)[0]) else "else_branch"
        taken = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        inner = dict(names)
        self.graph(taken, f"{outputs[0]}/", inner)
        for given, output in zip(taken.output, outputs, strict=True):
            self.alias[output] = self.resolve(_alias(inner, given.name))

    def compute(self, node: Any, inputs: list[str], outputs: list[str], place: str) -> None:
        values = [self.constants.get(name, self.live.get(name)) if name else None for name in inputs]
        results = run_node(node, values, self.opset, place)
        used = [name for name in outputs if name]
        if all(not name or name in self.constants for name in inputs):
            self.constants.update(zip(used, results, strict=True))
            return
        if node.op_type in STATIC:
            raise CannotCompile(f"{node.op_type} depends on data", place=place)
        self.live.update(zip(used, results, strict=True))
        self.nodes.append(Node(node.op_type, inputs, outputs, attributes_of(node), place))


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values, tensors as arrays, texts as str."""
    from onnx import helper

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == 4:  # TENSOR
            value = _to_array(value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        found[attribute.name] = value
    return found


def _to_array(tensor: Any) -> Array:
    from onnx import numpy_helper

    array: Array = numpy_helper.to_array(tensor)
    return array


def run_node(node: Any, values: Sequence[Array | None], opset: int, place: str) -> list[Array]:
    """One node on its inputs, by ONNX Runtime. Raises CannotCompile."""
    from onnx import TensorProto, helper, numpy_helper

    names = [f"i{index}" if value is not None else "" for index, value in enumerate(values)]
    outputs = [f"o{index}" if name else "" for index, name in enumerate(node.output)]
    copy = type(node)()
    copy.CopyFrom(node)
    del copy.input[:]
    del copy.output[:]
    copy.input.extend(names)
    copy.output.extend(outputs)
    if node.op_type == "Constant" and not values:
        fast = attributes_of(node)
        if "value" in fast:
            return [fast["value"]]
    graph = helper.make_graph(
        [copy],
        "node",
        [],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs if name],
        [
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in zip(names, values, strict=True)
            if value is not None
        ],
    )
    for output in graph.output:
        output.ClearField("type")
    return run_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), {}, place)


def float_model(graph: Graph, wanted: Sequence[str]) -> Any:
    """A flat graph as an ONNX model again, that gives the wanted values."""
    from onnx import TensorProto, helper, numpy_helper

    graph_proto = helper.make_graph(
        [
            helper.make_node(node.operator, node.inputs, node.outputs, **_proto_attributes(node.attributes))
            for node in graph.nodes
        ],
        "flat",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(graph.types[name])), graph.shapes[name]
            )
            for name in graph.inputs
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in wanted],
        [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in graph.constants.items()],
    )
    for output in graph_proto.output:
        output.ClearField("type")
    return helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=8)


def _proto_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    from onnx import numpy_helper

    return {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in attributes.items()
    }
