"""A flat float graph in the compiler's own few operators.

The passes, in order; each keeps the float meaning:
1. Operators that change nothing go; Squeeze, Unsqueeze and Flatten are Reshape.
2. States that are concatenated are taken apart (`states`), so that each has its own scale.
3. One-hot products are Embedding; Gemm, MatMul by a constant and Conv are Linear and Convolution with their weights as attributes.
4. Constant factors and terms per channel, batch normalisation among them, go into the weights before them.
5. What normalises rows is Normalise or Softmax, whatever it was written with (rows.py).
6. Every chain of element-wise operators with one origin is one Function (functions.py): a table later. ReLU and Clip right after a
   product become its bounds.
"""

from typing import Any

import numpy as np

from avow.exact.compile.elementwise import ELEMENTWISE
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.functions import form_functions, form_magnitudes
from avow.exact.compile.graph import Graph, Node
from avow.exact.compile.rows import recognise_rows
from avow.exact.compile.runtime import Array
from avow.exact.compile.states import take_states_apart

RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceSum"})


def simplify(graph: Graph) -> None:
    """Rewrites the graph in place. Raises CannotCompile."""
    remove_idle(graph)
    take_states_apart(graph)
    remove_idle(graph)
    form_products(graph)
    graph.drop_unused()
    while fold_affine(graph):
        graph.drop_unused()
    recognise_rows(graph)
    graph.drop_unused()
    remove_expansions(graph)
    form_magnitudes(graph)
    graph.drop_unused()
    form_functions(graph)
    graph.drop_unused()


# --- 1: what changes nothing ---------------------------------------------------------------------------------------


def remove_idle(graph: Graph) -> None:
    """Pass 1."""
    names: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node.inputs = [_final(names, name) for name in node.inputs]
        target = _idle(graph, node)
        if target is not None:
            names[node.outputs[0]] = target
            continue
        if node.operator in RESHAPES or (
            node.operator in REDUCTIONS
            and graph.shapes[node.inputs[0]] != ()
            and _size(graph, node.inputs[0]) == _size(graph, node.outputs[0])
        ):
            node.operator, node.inputs, node.attributes = "Reshape", node.inputs[:1], {}
        kept.append(node)
    graph.nodes = kept
    graph.rename(names)
    graph.drop_unused()


def _final(names: dict[str, str], name: str) -> str:
    while name in names:
        name = names[name]
    return name


def _size(graph: Graph, name: str) -> int:
    return int(np.prod(graph.shapes[name]))


def _idle(graph: Graph, node: Node) -> str | None:
    """The input that a node passes on unchanged, if it does."""
    dynamic = graph.dynamic(node)
    first = node.inputs[0]
    if node.operator in ("Identity", "Dropout"):
        return first
    if node.operator == "Cast":
        return first if _keeps_value(graph.types[first], graph.types[node.outputs[0]]) else None
    if len(dynamic) != 1 or graph.shapes[dynamic[0]] != graph.shapes[node.outputs[0]]:
        return None
    if node.operator in RESHAPES or node.operator in ("Expand", "Concat"):
        return dynamic[0]
    if node.operator == "Slice":
        steps = graph.constants[node.inputs[4]] if len(node.inputs) > 4 and node.inputs[4] else np.ones(1)
        return first if bool(np.all(steps == 1)) else None
    if node.operator == "Transpose":
        permutation = node.attributes.get("perm", list(range(len(graph.shapes[first])))[::-1])
        return first if list(permutation) == sorted(permutation) else None
    neutral = {"Add": 0.0, "Sub": 0.0, "Sum": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0, "Max": -np.inf, "Min": np.inf}
    if (
        node.operator in neutral
        and len(node.inputs) == 2
        and (dynamic[0] == first or node.operator not in ("Sub", "Div", "Pow"))
    ):
        other = node.inputs[1] if dynamic[0] == first else node.inputs[0]
        return dynamic[0] if bool(np.all(graph.constants[other] == neutral[node.operator])) else None
    return None


def _keeps_value(before: Any, after: Any) -> bool:
    """Whether a cast keeps every value: to a floating type from anything, or to a wider integer type."""
    old, new = np.dtype(before), np.dtype(after)
    if new.kind == "f":
        return True
    return old.kind in "iub" and new.kind in "iu" and (new.itemsize > old.itemsize or old.kind == "b" or old == new)


def remove_expansions(graph: Graph) -> None:
    """Expand before operators that repeat by themselves."""
    consumers = graph.consumers()
    names: dict[str, str] = {}
    for node in graph.nodes:
        if node.operator != "Expand" or node.outputs[0] in graph.outputs:
            continue
        users = consumers.get(node.outputs[0], [])
        if all(user.operator in ELEMENTWISE and _same_without(graph, user, node) for user in users):
            names[node.outputs[0]] = node.inputs[0]
    graph.nodes = [node for node in graph.nodes if node.outputs[0] not in names]
    graph.rename(names)


def _same_without(graph: Graph, user: Node, expand: Node) -> bool:
    shapes = [
        graph.shapes[expand.inputs[0] if name == expand.outputs[0] else name]
        if name not in graph.constants
        else graph.constants[name].shape
        for name in user.inputs
        if name
    ]
    return np.broadcast_shapes(*shapes) == graph.shapes[user.outputs[0]]


# --- 3: products ---------------------------------------------------------------------------------------------------


def form_products(graph: Graph) -> None:
    """Pass 3. Weights: Linear [N, K]; Convolution [O, kh, kw, C / groups]; Embedding [V, N]; all with a bias [N], float64."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.operator in ("MatMul", "Gemm"):
            _form_linear(graph, node, producers)
        elif node.operator == "Conv":
            _form_convolution(graph, node)
        elif node.operator == "Gather" and node.inputs[0] in graph.constants and node.inputs[1] not in graph.constants:
            table = graph.constants[node.inputs[0]]
            if node.attributes.get("axis", 0) not in (0, -table.ndim) or table.ndim != 2:
                raise CannotCompile("a look-up is of the rows of a matrix", place=node.place)
            node.operator, node.inputs, node.attributes = (
                "Embedding",
                [node.inputs[1]],
                {"weight": table.astype(np.float64)},
            )
        elif node.operator == "BatchNormalization":
            _form_affine(graph, node)
        elif node.operator == "LayerNormalization":
            _form_normalise(graph, node)


def _form_linear(graph: Graph, node: Node, producers: dict[str, Node]) -> None:
    left, right = node.inputs[:2]
    weight = graph.constants.get(right)
    if weight is None:
        if node.operator == "Gemm":
            raise CannotCompile("a Gemm of two variable matrices", place=node.place)
        return
    if left in graph.constants or weight.ndim != 2:
        if node.operator == "MatMul" and left not in graph.constants:
            return
        raise CannotCompile("a product with a constant on the left", place=node.place)
    weight = weight.astype(np.float64)
    bias = np.zeros(weight.shape[1])
    if node.operator == "Gemm":
        given = node.attributes
        if given.get("transA", 0):
            raise CannotCompile("a Gemm with its input transposed", place=node.place)
        weight = weight.T if given.get("transB", 0) else weight
        weight = weight * float(np.float32(given.get("alpha", 1.0)))
        bias = np.zeros(weight.shape[1])
        if len(node.inputs) > 2 and node.inputs[2]:
            third = graph.constants.get(node.inputs[2])
            if third is None:
                raise CannotCompile("a Gemm whose third input is variable", place=node.place)
            bias = np.broadcast_to(third.astype(np.float64).reshape(-1), bias.shape) * float(given.get("beta", 1.0))
    hot = _one_hot(graph, left, producers, len(weight))
    if hot is not None:
        node.operator, node.inputs, node.attributes = "Embedding", [hot], {"weight": weight + bias}
    else:
        node.operator, node.inputs = "Linear", [left]
        node.attributes = {"weight": np.ascontiguousarray(weight.T), "bias": bias}


def _one_hot(graph: Graph, name: str, producers: dict[str, Node], depth: int) -> str | None:
    """The ids whose one-hot rows a value is, if it is: Equal with 0 … depth − 1, or OneHot on the last axis."""
    node = producers.get(name)
    if node is None or graph.shapes[name][-1] != depth:
        return None
    if node.operator == "OneHot" and node.attributes.get("axis", -1) in (-1, len(graph.shapes[name]) - 1):
        off_on = graph.constants.get(node.inputs[2])
        return node.inputs[0] if off_on is not None and off_on.tolist() == [0, 1] else None
    if node.operator != "Equal" or len(graph.dynamic(node)) != 1:
        return None
    ids = graph.dynamic(node)[0]
    other = graph.constants[node.inputs[1] if node.inputs[0] == ids else node.inputs[0]]
    counted = other.reshape(-1).tolist() == list(range(depth)) and other.shape[-1] == depth
    return ids if counted and graph.shapes[ids] == (*graph.shapes[name][:-1], 1) else None


def _form_convolution(graph: Graph, node: Node) -> None:
    weight = graph.constants.get(node.inputs[1])
    if weight is None or (len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in graph.constants):
        raise CannotCompile("a convolution whose weights are variable", place=node.place)
    weight = weight.astype(np.float64)
    bias = np.zeros(len(weight))
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = graph.constants[node.inputs[2]].astype(np.float64)
    spatial = weight.ndim - 2
    if spatial not in (1, 2):
        raise CannotCompile("a convolution in three dimensions", place=node.place)
    weight = weight.reshape(*weight.shape[:2], 1, weight.shape[2]) if spatial == 1 else weight
    node.attributes = {
        "weight": np.ascontiguousarray(weight.transpose(0, 2, 3, 1)),
        "bias": bias,
        "groups": node.attributes.get("group", 1),
        "stride": _two(node.attributes.get("strides"), spatial, 1),
        "dilation": _two(node.attributes.get("dilations"), spatial, 1),
        "pad": pads_of(graph, node, spatial, weight.shape[2:]),
    }
    node.operator, node.inputs = "Convolution", node.inputs[:1]


def _two(values: Any, spatial: int, default: int) -> list[int]:
    found = list(values) if values else [default] * spatial
    return [default, *found] if spatial == 1 else found


def pads_of(graph: Graph, node: Node, spatial: int, kernel: tuple[int, ...]) -> list[int]:
    """[top, left, bottom, right], `auto_pad` worked out from the shapes; of one dimension the first is 1 high."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    given = list(node.attributes.get("pads", [0] * 2 * spatial))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        strides = _two(node.attributes.get("strides"), spatial, 1)[-spatial:]
        dilations = _two(node.attributes.get("dilations"), spatial, 1)[-spatial:]
        before, after = [], []
        for at in range(spatial):
            extent = graph.shapes[node.inputs[0]][2 + at]
            span = dilations[at] * (kernel[len(kernel) - spatial + at] - 1) + 1
            total = max((-(-extent // strides[at]) - 1) * strides[at] + span - extent, 0)
            small = total // 2
            before.append(small if mode == "SAME_UPPER" else total - small)
            after.append(total - small if mode == "SAME_UPPER" else small)
        given = [*before, *after]
    elif mode == "VALID":
        given = [0] * 2 * spatial
    return [0, given[0], 0, given[1]] if spatial == 1 else given


def _form_affine(graph: Graph, node: Node) -> None:
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[1:5])
    factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    node.operator, node.inputs, node.outputs = "Affine", node.inputs[:1], node.outputs[:1]
    node.attributes = {"factor": factor, "term": beta - mean * factor}


def _form_normalise(graph: Graph, node: Node) -> None:
    rank = len(graph.shapes[node.inputs[0]])
    axis = node.attributes.get("axis", -1) % rank
    gamma = graph.constants[node.inputs[1]].astype(np.float64)
    beta = graph.constants[node.inputs[2]].astype(np.float64) if len(node.inputs) > 2 else np.zeros_like(gamma)
    if axis != rank - 1 or gamma.ndim != 1:
        raise CannotCompile("a layer normalisation over several axes", place=node.place)
    node.attributes = {
        "axis": axis,
        "mode": "layer",
        "epsilon": node.attributes.get("epsilon", 1e-5),
        "gamma": gamma,
        "beta": beta,
    }
    node.operator, node.inputs, node.outputs = "Normalise", node.inputs[:1], node.outputs[:1]


# --- 4: constant factors and terms ---------------------------------------------------------------------------------


def fold_affine(graph: Graph) -> bool:
    """Pass 4, one round; whether anything was folded."""
    consumers, producers = graph.consumers(), graph.producers()
    kept = set(graph.outputs) | set(graph.states.values())
    done: set[str] = set()
    changed = False
    for node in graph.nodes:
        inputs = graph.dynamic(node)
        if len(inputs) != 1 or inputs[0] in kept or len(consumers[inputs[0]]) != 1 or inputs[0] in done:
            continue
        before = producers.get(inputs[0])
        if before is not None and before.operator == "Reshape" and _swap(graph, before, node, consumers, producers):
            return True
        if before is None or before.operator not in ("Linear", "Convolution", "Embedding"):
            continue
        found = _affine(graph, node, before)
        if found is None:
            continue
        factor, term = found
        weight = before.attributes["weight"]
        if before.operator == "Embedding":
            node.attributes = {"weight": weight * factor + term}
        else:
            shape = (-1, *[1] * (weight.ndim - 1))
            width = len(weight)
            full = np.broadcast_to(factor, (width,)).reshape(shape)
            node.attributes = {
                **before.attributes,
                "weight": weight * full,
                "bias": before.attributes["bias"] * factor + np.broadcast_to(term, (width,)),
            }
        node.operator, node.inputs = before.operator, list(before.inputs)
        done.add(node.outputs[0])
        changed = True
    return changed


def _swap(
    graph: Graph, reshape: Node, node: Node, consumers: dict[str, list[Node]], producers: dict[str, Node]
) -> bool:
    """Lets a constant term or factor per channel stand before a Reshape that drops the convolution's last extents of one."""
    source = reshape.inputs[0]
    before = producers.get(source)
    inner, outer = graph.shapes[source], graph.shapes[reshape.outputs[0]]
    if (
        before is None
        or before.operator != "Convolution"
        or len(consumers[source]) != 1
        or source in graph.outputs
        or len(node.inputs) != 2
        or graph.shapes[node.outputs[0]] != outer
        or inner[: len(outer)] != outer
        or any(extent != 1 for extent in inner[len(outer) :])
    ):
        return False
    name = f"{node.outputs[0]}, before {reshape.outputs[0]}"
    constant = next(value for value in node.inputs if value in graph.constants)
    values = graph.constants[constant]
    moved = f"{constant}, before {reshape.outputs[0]}"
    aligned = values.reshape(*[1] * (len(outer) - values.ndim), *values.shape)
    graph.constants[moved] = aligned.reshape(*aligned.shape, *[1] * (len(inner) - len(outer)))
    graph.shapes[name], graph.types[name] = inner, graph.types[source]
    graph.measured[name] = node.outputs[0]
    swapped = Node(
        node.operator,
        [source if value != constant else moved for value in node.inputs],
        [name],
        node.attributes,
        node.place,
    )
    at = graph.nodes.index(reshape)
    graph.nodes[at] = swapped
    node.operator, node.inputs, node.attributes = "Reshape", [name], {}
    return True


def _affine(graph: Graph, node: Node, before: Node) -> tuple[Array, Array] | None:
    """Factor and term per output channel of `before` (scalars or vectors), if the node is such a function of it."""
    zero, one = np.zeros(1), np.ones(1)
    if node.operator == "Affine":
        return node.attributes["factor"], node.attributes["term"]
    if node.operator not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] not in graph.constants
    constant = graph.constants[node.inputs[1 if first else 0]].astype(np.float64)
    shape = graph.shapes[node.outputs[0]]
    if shape != graph.shapes[before.outputs[0]]:
        return None
    channel = 1 if before.operator == "Convolution" else len(shape) - 1
    extents = (*[1] * (len(shape) - constant.ndim), *constant.shape)
    if any(extent != 1 for at, extent in enumerate(extents) if at != channel):
        return None
    values = constant.reshape(-1)
    if node.operator == "Add":
        return one, values
    if node.operator == "Sub":
        return (one, -values) if first else (-one, values)
    if node.operator == "Mul":
        return values, zero
    return (1.0 / values, zero) if first else None
