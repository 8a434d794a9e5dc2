"""Random small valid programs that cover every kind of operator: what a machine is held to the specification with.

`program_of(seed)` and `inputs_of(program, seed)` are deterministic; `runs()` is a strategy over both.
"""

from dataclasses import dataclass, field
from math import prod
from random import Random

from hypothesis import strategies as st

from avow.exact.program import CACHE, INPUT, OPERATOR, PREVIOUS, Constant, Operator, Program, Source, Tensor
from avow.exact.specification.cells import Parameters
from avow.exact.tensors import RANGES, pack, size_of

LARGEST = 600
"""Elements of one tensor of a random program, about."""


def narrowest(low: int, high: int) -> str:
    return next(name for name, (least, most) in RANGES.items() if least <= low and high <= most)


@dataclass
class Builder:
    """A program under construction; `emit` returns the new operator's output as a source."""

    random: Random
    mode: str
    context: int
    inputs: list[Tensor] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)

    def emit(self, kind, inputs, shape, low, high, *, width=None, phase=0, **attributes) -> Source:
        phase = max([phase, *(self.operators[each.id].phase for each in inputs if each.origin in (OPERATOR, CACHE))])
        named = {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}
        record = Operator(kind, tuple(inputs), width or narrowest(low, high), tuple(shape), low, high, phase, named)
        self.operators.append(record)
        return record.source(OPERATOR, len(self.operators) - 1)

    def constant(self, shape, low, high, *, width=None, values=None) -> Source:
        values = values or [self.random.choice((low, high, self.random.randint(low, high))) for _ in range(prod(shape))]
        constant = Constant.of(width or narrowest(low, high), tuple(shape), pack(width or narrowest(low, high), values))
        self.constants.append(constant)
        whole = self.random.random() < 0.5
        return constant.source(len(self.constants) - 1, *(() if whole else (min(values), max(values))))

    def program_input(self, shape, low, high) -> Source:
        self.inputs.append(Tensor(narrowest(low, high), tuple(shape), low, high))
        source = Source(INPUT, len(self.inputs) - 1, narrowest(low, high), tuple(shape), low, high)
        return self.emit("input", [source], shape, low, high, width=source.type)

    # --- Sources for the next operator

    def any(self) -> Source:
        """An output, mostly a late one; in a sequence now and then of the previous step."""
        usable = [
            at
            for at, each in enumerate(self.operators)
            if each.shape[-1] > 0 and size_of(each.shape) <= LARGEST and each.kind != "append"
        ]
        at = max(self.random.choice(usable), self.random.choice(usable))
        record = self.operators[at]
        if self.mode == "sequence" and self.random.random() < 0.25 and record.low <= 0 <= record.high:
            return record.source(PREVIOUS, at)
        return record.source(OPERATOR, at)

    def small(self, source: Source, bits: int) -> Source:
        """The source, or a rescaled one, with |x| < 2^(bits − 1)."""
        if source.magnitude < 1 << (bits - 1):
            return source
        bound = (1 << (bits - 1)) - 1
        if source.magnitude >= 1 << 30:
            source = self.emit(
                "clip", [source], source.shape, max(source.low, -(1 << 30) + 1), min(source.high, (1 << 30) - 1)
            )
        shift = source.magnitude.bit_length() - self.random.randint(bits - 2, bits) + 7
        multiplier = self.random.randint(64, 127)
        return self.emit("rescale", [source], source.shape, -bound, bound, m=multiplier, s=max(1, shift))

    def shaped(self, rank: int, bits: int) -> Source:
        """A small source of a rank, by reshaping any."""
        source = self.small(self.any(), bits)
        if len(source.shape) == rank:
            return source
        left, shape = prod(source.shape), []
        for _ in range(rank - 1):
            shape.append(self.random.choice([each for each in range(1, 13) if left % each == 0]))
            left //= shape[-1]
        shape.append(left)
        self.random.shuffle(shape)
        return self.emit("reshape", [source], shape, source.low, source.high, width=source.type)

    def interval(self, bound: int) -> tuple[int, int]:
        """An interval for an output that is clamped: some clamp, some do not."""
        low = self.random.choice((0, -self.random.randint(1, bound), -bound))
        return low, self.random.choice((self.random.randint(1, bound), bound))

    def quotient(self, bits: int, wanted: int) -> tuple[int, int]:
        """A multiplier and a shift that bring numbers of `bits` bits to about `wanted` bits."""
        width = self.random.randint(1, 15)
        return self.random.randint(1 << (width - 1), (1 << width) - 1), min(45, max(1, bits + width - wanted))


def _channels(b: Builder, channels: int, length: int, x: Source):
    """Optional bias, multipliers and shifts, as linear and conv take them."""
    bias, rescale = b.random.randint(0, 1), b.random.randint(0, 1)
    inputs = []
    bits = max(2, (x.magnitude * 128 * length).bit_length())
    if bias:
        inputs.append(b.constant([channels], -(1 << (bits - 2)), 1 << (bits - 2), width="int32"))
    if rescale:
        m, s = b.quotient(bits, b.random.choice((7, 8, 12)))
        counts = b.random.choice((1, channels)), b.random.choice((1, channels))
        inputs.append(b.constant([counts[0]], max(1, m // 2), m, width="int32"))
        inputs.append(b.constant([counts[1]], s, min(45, s + 2), width="int8"))
        low, high = b.interval(b.random.choice((127, 2047)))
    else:
        low, high = b.interval((1 << 30) - 1)
    return inputs, low, high, {"bias": bias, "rescale": rescale}


def _linear(b: Builder):
    x = b.shaped(b.random.randint(1, 3), b.random.choice((8, 12, 16)))
    channels = b.random.randint(1, 12)
    if prod(x.shape[:-1]) * channels > LARGEST:
        return
    w = b.constant([channels, x.shape[-1]], -127, 127)
    if x.magnitude * 128 * x.shape[-1] >= 1 << 29:
        x = b.small(x, 8)
    inputs, low, high, attributes = _channels(b, channels, x.shape[-1], x)
    shape = (*x.shape[:-1], channels) if b.random.random() < 0.7 else (channels, *x.shape[:-1])
    b.emit("linear", [x, w, *inputs], shape, low, high, **attributes)


def _matmul(b: Builder):
    left = b.shaped(b.random.randint(2, 3), 8)
    columns, transposed = b.random.randint(1, 8), b.random.randint(0, 1)
    tail = (columns, left.shape[-1]) if transposed else (left.shape[-1], columns)
    if prod(left.shape[:-1]) * columns > LARGEST:
        return
    right = b.constant([*left.shape[:-2], *tail], -127, 127)
    if b.random.random() < 0.5 and transposed:
        right = left
        columns = left.shape[-2]
    m, s = b.quotient(14 + left.shape[-1].bit_length(), 8)
    low, high = b.interval(127)
    b.emit("matmul", [left, right], (*left.shape[:-1], columns), low, high, transpose_b=transposed, m=m, s=s)


def _window(b: Builder, shape, kernel, dilation):
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, dilation)]
    pad = [
        b.random.randint(0, reach[0] - 1),
        b.random.randint(0, reach[1] - 1),
        b.random.randint(0, reach[0] - 1),
        b.random.randint(0, reach[1] - 1),
    ]
    for axis in (0, 1):
        while shape[axis] + pad[axis] + pad[axis + 2] < reach[axis]:
            pad[b.random.choice((axis, axis + 2))] = reach[axis] - 1
    stride = [b.random.randint(1, 3), b.random.randint(1, 3)]
    extent = [(shape[a] + pad[a] + pad[a + 2] - reach[a]) // stride[a] + 1 for a in (0, 1)]
    return pad, stride, extent


def _conv(b: Builder):
    x = b.shaped(3, b.random.choice((8, 12)))
    height, width, channels = x.shape
    groups = b.random.choice([each for each in range(1, channels + 1) if channels % each == 0])
    outputs = groups * b.random.randint(1, 3)
    kernel = [b.random.randint(1, min(3, height + 1)), b.random.randint(1, min(3, width + 1))]
    dilation = [1 if size == 1 else b.random.randint(1, 2 if height > 2 and width > 2 else 1) for size in kernel]
    pad, stride, extent = _window(b, x.shape, kernel, dilation)
    if prod(extent) * outputs > LARGEST:
        return
    w = b.constant([outputs, *kernel, channels // groups], -127, 127)
    inputs, low, high, attributes = _channels(b, outputs, prod(kernel) * channels // groups, x)
    b.emit(
        "conv",
        [x, w, *inputs],
        (*extent, outputs),
        low,
        high,
        groups=groups,
        stride=stride,
        dilation=dilation,
        pad=pad,
        **attributes,
    )


def _pool(b: Builder):
    x = b.shaped(3, b.random.choice((8, 16, 20)))
    kernel = [b.random.randint(1, min(3, x.shape[0] + 1)), b.random.randint(1, min(3, x.shape[1] + 1))]
    pad, stride, extent = _window(b, x.shape, kernel, (1, 1))
    if prod(extent) * x.shape[2] > LARGEST:
        return
    attributes, low, high = _extremum(b, x)
    b.emit("pool", [x], (*extent, x.shape[2]), low, high, kernel=kernel, stride=stride, pad=pad, **attributes)


def _extremum(b: Builder, x: Source):
    mode = b.random.randint(0, 1)
    attributes = {"mode": mode, "rescale": mode and b.random.randint(0, 1)}
    if attributes["rescale"]:
        attributes["m"], attributes["s"] = b.quotient(x.magnitude.bit_length() + 2, 8)
    low, high = b.interval(2047) if mode else (x.low, x.high)
    return attributes, low, high


def _reduce(b: Builder):
    x = b.shaped(b.random.randint(1, 3), b.random.choice((8, 16, 20)))
    axis = b.random.randrange(len(x.shape))
    block = b.random.choice((1, 2, 3, x.shape[axis], x.shape[axis] + 1))
    attributes, low, high = _extremum(b, x)
    shape = (*x.shape[:axis], -(-x.shape[axis] // block), *x.shape[axis + 1 :])
    b.emit("reduce", [x], shape, low, high, axis=axis, block=block, **attributes)


def _partner(b: Builder, x: Source, low: int, high: int) -> Source:
    """A constant that broadcasts with x, or x itself."""
    if b.random.random() < 0.3 and low <= x.low and x.high <= high:
        return x
    shape = [b.random.choice((1, extent)) for extent in x.shape][b.random.randrange(len(x.shape)) :]
    return b.constant(shape, low, high)


def _pair(b: Builder, x: Source, other: Source):
    return [x, other] if b.random.random() < 0.5 else [other, x]


def _add(b: Builder):
    x = b.small(b.any(), b.random.choice((8, 16, 30)))
    inputs = _pair(b, x, _partner(b, x, -3000, 3000))
    low, high = b.interval(b.random.choice((127, 2047, (1 << 31) - 1)))
    shift = b.random.choice((0, 1, 14, 20))
    b.emit(
        "add",
        inputs,
        x.shape,
        low,
        high,
        ma=b.random.randint(-32767, 32767) >> b.random.choice((0, 8, 14)),
        mb=b.random.randint(-32767, 32767),
        s=shift,
    )


def _mul(b: Builder):
    x = b.small(b.any(), 16)
    inputs = _pair(b, x, _partner(b, x, -3000, 3000))
    m, s = b.quotient(26, 12)
    low, high = b.interval(2047)
    b.emit("mul", inputs, x.shape, low, high, m=m, s=s)


def _divide(b: Builder):
    x = b.small(b.any(), 16)
    most = b.random.choice((3, 500))
    divisor = b.constant([b.random.choice((1, extent)) for extent in x.shape], 1, most)
    divisor = b.constants[divisor.id].source(divisor.id, 1, most)
    low, high = b.interval(2047)
    b.emit("divide", [x, divisor], x.shape, low, high, c=b.random.randint(1, 8000))


def _rescale(b: Builder):
    x = b.small(b.any(), 30)
    m, s = b.quotient(x.magnitude.bit_length(), 8)
    low, high = b.interval(127)
    b.emit("rescale", [x], x.shape, low, high, m=m, s=s)


def _clip(b: Builder):
    x = b.any()
    low, high = b.interval(max(x.magnitude // 2, 1))
    b.emit("clip", [x], x.shape, low, high)


def _table(b: Builder):
    x = b.small(b.any(), 8)
    bound = b.random.choice((127, 2047, 100_000))
    entries = b.constant([x.high - x.low + 1], -bound, bound)
    b.emit("table", [x, entries], x.shape, -bound, bound)


def _isqrt(b: Builder):
    x = b.any()
    x = b.emit("clip", [x], x.shape, 0, min(max(x.high, 1), (1 << 30) - 1))
    b.emit("isqrt", [x], x.shape, 0, b.random.choice((200, 1 << 15)))


def _softmax(b: Builder, x: Source | None = None):
    x = x or b.shaped(b.random.randint(1, 3), 12)
    top = b.random.choice((255, 32767))
    length = b.random.choice((16, 256))
    values = sorted((b.random.randint(0, top) for _ in range(length)), reverse=True)
    entries = b.constant([length], 0, top, values=[top, *values[1:]])
    return b.emit(
        "softmax", [x, entries], x.shape, 0, b.random.choice((127, 1 << 15)), one=b.random.choice((127, 4096, 32767))
    )


def _norm(b: Builder, x: Source | None = None):
    mode = b.random.randint(0, 1)
    if x is None:
        x = b.shaped(b.random.randint(1, 3), b.random.choice((8, 16)) if mode else b.random.choice((8, 16, 30)))
    if mode and 2 * x.shape[-1] * x.magnitude >= 1 << 30:
        x = b.small(x, 16)
    length, beta = x.shape[-1], b.random.randint(0, 1)
    inputs = [b.constant([length], -32767, 32767, width="int16")]
    if beta:
        inputs.append(b.constant([length], -100_000, 100_000, width="int32"))
    bound = b.random.choice((127, 2047, 32767))
    return b.emit(
        "norm", [x, *inputs], x.shape, -bound, bound, mode=mode, exponent=b.random.randint(-14, 15),
        epsilon=b.random.choice((1, 1000, (1 << 45) - 1)), shift=b.random.randint(0, 14), beta=beta, s=b.random.randint(0, 15),
    )  # fmt: skip


def _gather(b: Builder, ids: Source | None = None, width: int | None = None):
    if ids is None:
        rows = b.random.randint(1, 20)
        x = b.any()
        ids = b.emit("clip", [x], x.shape, 0, rows - 1)
    else:
        rows = ids.high + 1
    width = width or b.random.randint(1, 6)
    if prod(ids.shape) * width > LARGEST:
        return None
    w = b.constant([rows, width], -127, 127)
    if b.random.random() < 0.5:
        return b.emit("gather", [w, ids], (*ids.shape, width), -128, 127, rescale=0)
    m, s = b.constant([rows], 1, 32767, width="int32"), b.constant([rows], 8, 16, width="int8")
    low, high = b.interval(2047)
    return b.emit("gather", [w, ids, m, s], (*ids.shape, width), low, high, rescale=1)


def _concat(b: Builder):
    x = b.any()
    axis = b.random.randrange(len(x.shape))
    others = [
        b.constant([*x.shape[:axis], b.random.randint(1, 3), *x.shape[axis + 1 :]], -50, 50)
        for _ in range(b.random.randint(0, 2))
    ]
    sources = [x, *others, *([x] if b.random.random() < 0.3 else [])]
    b.random.shuffle(sources)
    total = sum(source.shape[axis] for source in sources)
    if prod(x.shape) // x.shape[axis] * total <= LARGEST:
        low, high = min(source.low for source in sources), max(source.high for source in sources)
        b.emit("concat", sources, (*x.shape[:axis], total, *x.shape[axis + 1 :]), low, high, axis=axis)


def _slice(b: Builder):
    x = b.any()
    starts, steps, shape = [], [], []
    for extent in x.shape:
        start, step = b.random.randrange(extent), b.random.choice((1, 1, 2, -1, -2))
        most = (extent - 1 - start) // step + 1 if step > 0 else start // -step + 1
        starts.append(start)
        steps.append(step)
        shape.append(b.random.randint(1, most))
    b.emit("slice", [x], shape, x.low, x.high, width=x.type, starts=starts, steps=steps)


def _transpose(b: Builder):
    x = b.shaped(b.random.randint(1, 4), 30)
    order = list(range(len(x.shape)))
    b.random.shuffle(order)
    b.emit("transpose", [x], [x.shape[axis] for axis in order], x.low, x.high, perm=order)


def _reshape(b: Builder):
    b.shaped(b.random.randint(1, 4), 30)


def _pad(b: Builder):
    x = b.any()
    before, after = ([b.random.randint(0, 2) for _ in x.shape] for _ in range(2))
    shape = [first + extent + last for first, extent, last in zip(before, x.shape, after)]
    if prod(shape) <= LARGEST:
        value = b.random.randint(x.low, x.high)
        b.emit("pad", [x], shape, x.low, x.high, before=before, value=value)


def _expand(b: Builder):
    x = b.any()
    shape = [b.random.randint(1, 3) if extent == 1 else extent for extent in x.shape]
    shape = [b.random.randint(1, 2) for _ in range(b.random.randint(0, 1))] + shape
    if prod(shape) <= LARGEST:
        b.emit("expand", [x], shape, x.low, x.high)


def _rope(b: Builder, x: Source | None = None):
    if x is None:
        x = b.shaped(2, 12)
        if x.shape[-1] % 2 or b.mode == "once":
            return None
    angles = [b.constant([b.context, x.shape[-1] // 2], -(1 << 14), 1 << 14) for _ in range(2)]
    bound = min(2 * x.magnitude, 32767)
    return b.emit("rope", [x, *angles], x.shape, -bound, bound, interleaved=b.random.randint(0, 1))


def _argmax(b: Builder):
    x = b.shaped(b.random.randint(1, 3), 30)
    b.emit("argmax", [x], (*x.shape[:-1], 1), 0, x.shape[-1] - 1)


def _topk(b: Builder):
    x = b.shaped(b.random.randint(1, 3), b.random.choice((3, 30)))
    k = b.random.randint(1, min(4, x.shape[-1]))
    b.emit("topk", [x], (*x.shape[:-1], k), 0, x.shape[-1] - 1, k=k)


def _trees(b: Builder):
    x = b.shaped(1, 12)
    depth = b.random.randint(0, 4)
    counts = [b.random.randint(0, (1 << depth) - 1) for _ in range(b.random.randint(1, 5))]
    size = 2 * max(counts) + 1
    nodes = []
    for splits in counts:
        tree = [[-1, b.random.randint(-999, 999), 0, 0] for _ in range(size)]
        leaves, used = [(0, 0)], 1
        for _ in range(splits):
            open_leaves = [leaf for leaf in leaves if leaf[1] < depth]
            if not open_leaves:
                break
            leaf = b.random.choice(open_leaves)
            leaves.remove(leaf)
            tree[leaf[0]] = [b.random.randrange(x.shape[0]), b.random.randint(x.low, x.high), used, used + 1]
            leaves += [(used, leaf[1] + 1), (used + 1, leaf[1] + 1)]
            used += 2
        nodes += [value for node in tree for value in node]
    constant = b.constant([len(counts), size, 4], -4000, 4000, values=nodes, width="int32")
    b.emit("trees", [x, constant], [len(counts)], -999, 999, depth=depth)


FREE = {
    "linear": _linear, "matmul": _matmul, "conv": _conv, "add": _add, "mul": _mul, "divide": _divide, "rescale": _rescale,
    "clip": _clip, "table": _table, "isqrt": _isqrt, "pool": _pool, "reduce": _reduce, "softmax": _softmax, "norm": _norm,
    "gather": _gather, "concat": _concat, "slice": _slice, "transpose": _transpose, "reshape": _reshape, "pad": _pad,
    "expand": _expand, "rope": _rope, "argmax": _argmax, "topk": _topk, "trees": _trees,
}  # fmt: skip
"""Kinds that programs of any mode may have."""
GENERATIVE = ("token", "append", "scores", "mix", "gumbel")
"""Kinds that only programs that generate have."""


def _finish(b: Builder, name: str, **rest) -> Program:
    return Program.build(
        name=name, mode=b.mode, context=b.context, inputs=b.inputs, constants=b.constants, operators=b.operators,
        notes={"seed": name}, **rest,
    )  # fmt: skip


def _free_program(b: Builder, name: str, kinds) -> Program:
    b.program_input([b.random.randint(1, 7), b.random.randint(1, 7), b.random.randint(1, 6)], -127, 127)
    if b.random.random() < 0.5:
        b.program_input([b.random.randint(1, 40)], -2047, 2047)
    wanted = list(kinds or FREE)
    for _ in range(b.random.randint(3, 12)):
        FREE[b.random.choice(wanted)](b)
    last = len(b.operators) - 1
    others = b.random.sample(range(last), min(last, b.random.randint(0, 2)))
    return _finish(b, name, outputs=[last, *others])


def _attention(b: Builder, x: Source, heads: int, groups: int, width: int) -> Source:
    def project(rows: int) -> Source:
        w = b.constant([rows * width, x.shape[-1]], -127, 127)
        m, s = b.quotient((x.magnitude * 128 * x.shape[-1]).bit_length(), 8)
        multiplier, shift = b.constant([1], m, m, width="int32"), b.constant([1], s, s, width="int8")
        row = b.emit("linear", [x, w, multiplier, shift], [rows * width], -127, 127, bias=0, rescale=1)
        return b.emit("reshape", [row], [rows, width], -127, 127)

    q, k, v = project(heads), project(groups), project(groups)
    q, k = _rope(b, q), _rope(b, k)
    caches = []
    for transposed, row in enumerate((k, v)):
        shape = (groups * width, 64) if transposed else (64, groups * width)
        itself = Source(PREVIOUS, len(b.operators), row.type, shape, row.low, row.high)
        b.emit("append", [row, itself], shape, row.low, row.high, width=row.type, transposed=transposed)
        caches.append(b.operators[-1].source(CACHE, len(b.operators) - 1))
    m, s = b.quotient(16 + width.bit_length(), 9)
    found = b.emit("scores", [q, caches[0]], (heads, -1), -255, 255, m=m, s=s)
    found = _softmax(b, found)
    m, s = b.quotient(22, 9)
    mixed = b.emit("mix", [found, caches[1]], (heads, width), -127, 127, m=m, s=s)
    return b.emit("reshape", [mixed], [heads * width], -127, 127)


def _generating_program(b: Builder, name: str, kinds) -> Program:
    vocabulary = b.random.randint(5, 40)
    b.inputs.append(Tensor("int32", (1,), 0, vocabulary - 1))
    prompt = Source(INPUT, 0, "int32", (1,), 0, vocabulary - 1)
    chosen = Source(PREVIOUS, -1, "int32", (1,), 0, vocabulary - 1)
    b.emit("token", [prompt, chosen], [1], 0, vocabulary - 1, width="int32")
    groups, width = b.random.randint(1, 2), 2 * b.random.randint(1, 3)
    heads = groups * b.random.randint(1, 2)
    x = _gather(b, b.operators[0].source(OPERATOR, 0), heads * width)
    x = b.emit("reshape", [x], [heads * width], x.low, x.high)
    for _ in range(b.random.randint(1, 2)):
        mixed = _attention(b, b.small(_norm(b, x), 12), heads, groups, width)
        x = b.emit("add", [x, mixed], x.shape, -30000, 30000, width="int32", ma=1, mb=b.random.randint(1, 9), s=0)
    for _ in range(b.random.randint(0, 4)):
        FREE[b.random.choice(list(kinds or FREE))](b)
    x = b.small(_norm(b, x), 12)
    b.operators[-1] = Operator(**{**_members(b.operators[-1]), "phase": 1})
    w = b.constant([vocabulary, x.shape[-1]], -127, 127)
    logits = b.emit("linear", [x, w], [vocabulary], -(1 << 30) + 1, (1 << 30) - 1, bias=0, rescale=0)
    noise = b.constant([1 << 16], -100_000, 1_000_000, width="int32")
    noisy = b.emit("gumbel", [logits, noise], [vocabulary], *RANGES["int32"])
    token = b.emit("argmax", [noisy], [1], 0, vocabulary - 1, width="int32").id
    first = b.operators[0]
    source = Source(PREVIOUS, token, "int32", (1,), 0, vocabulary - 1)
    b.operators[0] = Operator(**{**_members(first), "inputs": (first.inputs[0], source)})
    end = sorted(b.random.sample(range(vocabulary), b.random.randint(0, 1)))
    return _finish(b, name, outputs=[token], token=token, end=end)


def _members(operator: Operator) -> dict:
    return {name: getattr(operator, name) for name in Operator.__slots__}


def program_of(seed: int, *, mode: str | None = None, kinds=None, context: int | None = None) -> Program:
    """A valid program. `kinds`: which of FREE may be in it beside what the mode needs."""
    random = Random(seed)
    mode = mode or random.choice(("once", "sequence", "generate"))
    b = Builder(random, mode, context or random.choice((3, 8, 70)))
    return (_generating_program if mode == "generate" else _free_program)(b, str(seed), kinds)


def inputs_of(program: Program, seed: int, *, steps: int | None = None) -> list[bytes]:
    """Inputs for a run of `steps` (by default 1 to 3) steps, or a prompt of as many tokens; a third of the values are at an end."""
    random = Random(seed)
    steps = steps or random.randint(1, min(3, program.context))
    return [
        pack(
            tensor.type,
            [
                random.choice((tensor.low, tensor.high, *(random.randint(tensor.low, tensor.high) for _ in range(4))))
                for _ in range(steps * prod(tensor.shape))
            ],
        )
        for tensor in program.inputs
    ]


def parameters_of(program: Program, seed: int) -> Parameters | None:
    """Sampling parameters for a program that generates, None for others."""
    if program.mode != "generate":
        return None
    random = Random(seed)
    return Parameters(
        random.choice((0, 1, 9000, 32767)), random.choice((1, 12, 45)), random.getrandbits(64), random.randint(1, 4)
    )


@st.composite
def runs(draw, *, mode: str | None = None, kinds=None):
    """(program, inputs, parameters)"""
    seed = draw(st.integers(0, (1 << 32) - 1))
    program = program_of(seed, mode=mode, kinds=kinds)
    return program, inputs_of(program, seed), parameters_of(program, seed)
