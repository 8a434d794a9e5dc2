"""Cells over plain lists, and operators made for one test."""

from avow.exact.errors import Undefined
from avow.exact.program import CACHE, CONSTANT, OPERATOR, Operator, Source
from avow.exact.specification import KINDS, Parameters, Step
from avow.exact.specification.checking import Form
from avow.exact.tensors import RANGES, size_of

INT32 = RANGES["int32"]


class ListCells:
    """`inputs`: flat values of each input; of a cache, the rows by position. Counts what is read."""

    def __init__(self, *inputs, claims=()):
        self.inputs = inputs
        self.claims = claims
        self.seen = []

    def row(self, number, start, count):
        if not 0 <= start <= start + count <= len(self.inputs[number]):
            raise Undefined("outside")
        self.seen += [(number, at) for at in range(start, start + count)]
        return self.inputs[number][start : start + count]

    def get(self, number, index):
        return self.row(number, index, 1)[0]

    def pick(self, number, indices):
        return [self.get(number, index) for index in indices]

    def cached(self, number, position, start, count):
        assert start + count <= len(self.inputs[number][position])
        return self.inputs[number][position][start : start + count]

    def column(self, number, column):
        return [row[column] for row in self.inputs[number]]

    def claimed(self, index):
        return self.claims[index]


def source(shape, low=None, high=None, origin=OPERATOR, width="int32"):
    least, most = RANGES[width]
    return Source(origin, 0, width, tuple(shape), least if low is None else low, most if high is None else high)


def constant(shape, width="int32"):
    return source(shape, origin=CONSTANT, width=width)


def cache(shape):
    return source(shape, origin=CACHE)


def operator(kind, inputs, shape, low=INT32[0], high=INT32[1], **attributes):
    named = {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}
    return Operator(kind, tuple(inputs), "int32", tuple(shape), low, high, 0, named)


def values(record, *inputs, step=0, prompt=0, parameters=None, mode="generate", context=100, indices=None):
    """All of an operator's output, or the values at some indices, after its record's form was checked."""
    KINDS[record.kind].form(Form(record, 0, mode, context, 0))
    cells = ListCells(*inputs)
    at = Step(step, prompt, parameters or Parameters())
    return [
        KINDS[record.kind].element(record, cells, index, at)
        for index in indices or range(size_of(record.shape, step + 1))
    ]
