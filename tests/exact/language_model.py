"""A small random model of the Llama family, and its exact program: what tests of language programs run."""

from functools import cache

import numpy as np

from avow.exact.compile.gguf_model import Model, Shape, Weights, character_classes
from avow.exact.compile.llama import Settings, compile_llama
from avow.exact.program import Program
from avow.exact.tokeniser import Vocabulary

SHAPE = Shape(
    layers=2,
    width=24,
    heads=4,
    groups=2,
    head=6,
    inner=34,
    vocabulary=290,
    context=512,
    rotation_base=10_000.0,
    epsilon=1e-5,
    tied=True,
)


@cache
def vocabulary() -> Vocabulary:
    """Bytes, a few merges, three special tokens."""
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    for left, right in (
        ("t", "h"),
        ("th", "e"),
        (" ", "the"),
        ("i", "n"),
        ("in", "g"),
        ("e", "r"),
        (" ", "a"),
        ("o", "u"),
    ):
        ids = {token: index for index, token in enumerate(tokens)}
        merges.append((ids[left.encode()], ids[right.encode()], len(tokens)))
        tokens.append((left + right).encode())
    special = range(len(tokens), len(tokens) + 3)
    tokens += [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>"]
    tokens += [b"xx%d" % number for number in range(SHAPE.vocabulary - len(tokens))]
    return Vocabulary(tuple(tokens), tuple(merges), frozenset(special), *character_classes(), digits=True)


@cache
def model(tied: bool = True, seed: int = 0) -> Model:
    """Random weights, with a channel that is far larger than others, as trained models have."""
    random = np.random.default_rng(seed)
    shape = SHAPE if tied else Shape(**{**{name: getattr(SHAPE, name) for name in SHAPE.__slots__}, "tied": False})
    heads, groups = shape.heads * shape.head, shape.groups * shape.head
    sizes = {
        "attn_q": (heads, shape.width),
        "attn_k": (groups, shape.width),
        "attn_v": (groups, shape.width),
        "attn_output": (shape.width, heads),
        "ffn_gate": (shape.inner, shape.width),
        "ffn_up": (shape.inner, shape.width),
        "ffn_down": (shape.width, shape.inner),
    }
    tensors = {
        "token_embd.weight": random.normal(0, 1, (shape.vocabulary, shape.width)),
        "output_norm.weight": random.uniform(0.5, 2, shape.width),
    }
    if not tied:
        tensors["output.weight"] = random.normal(0, 1, (shape.vocabulary, shape.width))
    for layer in range(shape.layers):
        for name, size in sizes.items():
            tensors[f"blk.{layer}.{name}.weight"] = random.normal(0, size[1] ** -0.5, size)
        tensors[f"blk.{layer}.ffn_down.weight"][3] *= 20
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = random.uniform(0.3, 1.5, shape.width)
    end = (264, 266)
    return Model(
        "small",
        shape,
        Weights({name: (lambda value=value: value) for name, value in tensors.items()}),
        vocabulary(),
        end,
    )


@cache
def program(context: int = 80, tied: bool = True) -> Program:
    """The exact program, calibrated on random tokens."""
    random = np.random.default_rng(1)
    windows = [random.integers(0, SHAPE.vocabulary, 60) for _ in range(3)]
    return compile_llama(model(tied), windows, Settings(context=context))
