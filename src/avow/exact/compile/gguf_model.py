"""A language model of the Llama family out of a GGUF file: its shape, its weights as floats, its tokeniser.

Rules:
1. The header is checked (models/gguf.py) before the reader of the `gguf` package sees the file.
2. What the exact language cannot say is named before any work: another architecture, biases, several experts, scaled rotations.
3. Weights are what the file's quantisation says, in float64: that is the model which quality is measured against.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.tokeniser import Ranges, Vocabulary
from avow.models.gguf import Gguf, check_gguf

Floats = npt.NDArray[np.float64]

_PLAIN, _CONTROL, _USER = 1, 3, 4
_LAYER = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
_PRE = {"smollm": True, "gpt-2": False, "gpt2": False}
"""Ways to cut words that are known here → whether each digit stands alone (llama.cpp, src/llama-vocab.cpp)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The hyper-parameters. `width` of the residual stream; `head` of one head; `inner` of the feed-forward layer."""

    layers: int
    width: int
    heads: int
    groups: int
    head: int
    inner: int
    vocabulary: int
    context: int
    rotation_base: float
    epsilon: float
    tied: bool
    """Whether the output projection is the embedding."""


class Weights:
    """Tensors by name as float64 [rows, columns], read when asked for."""

    def __init__(self, tensors: Mapping[str, Callable[[], Floats]]) -> None:
        self._tensors = tensors

    def __call__(self, name: str) -> Floats:
        try:
            return self._tensors[f"{name}.weight"]()
        except KeyError:
            raise CannotCompile("the file has no such tensor", tensor=name) from None

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self._tensors


@dataclass(frozen=True, slots=True)
class Model:
    """A checked file."""

    name: str
    shape: Shape
    weights: Weights
    vocabulary: Vocabulary
    end: tuple[int, ...]
    """Tokens after which an answer is over, ascending."""
    notes: Mapping[str, str] = field(default_factory=dict)


def read_model(path: Path) -> Model:
    """Raises UnsafeModel, UnsupportedOperators, CannotCompile."""
    header = check_gguf(path)
    shape = _shape(header)
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(str(path))
    tensors = {
        tensor.name: lambda tensor=tensor: (
            dequantize(tensor.data, tensor.tensor_type)
            .astype(np.float64)
            .reshape(tuple(int(extent) for extent in tensor.shape)[::-1])
        )
        for tensor in reader.tensors
    }
    vocabulary = _vocabulary(header, reader)
    return Model(
        header.text("general.name") or path.stem, shape, Weights(tensors), vocabulary, _end(header, vocabulary)
    )


def _number(header: Gguf, key: str, default: float | None = None) -> float:
    value = header.metadata.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CannotCompile("the file lacks a number", key=key)
    return value


def _shape(header: Gguf) -> Shape:
    architecture = header.text("general.architecture")
    if architecture != "llama":
        raise UnsupportedOperators([f"architecture {architecture}: only llama is known"])
    names = {tensor.name for tensor in header.tensors}
    layers = int(_number(header, "llama.block_count"))
    known = {"token_embd.weight", "output_norm.weight", "output.weight"}
    known |= {f"blk.{layer}.{part}.weight" for layer in range(layers) for part in _LAYER}
    places = [f"tensor {name}" for name in sorted(names - known)]
    places += [f"missing tensor {name}" for name in sorted(known - names - {"output.weight"})]
    places += [
        f"metadata {key}"
        for key in header.metadata
        if key.startswith("llama.rope.scaling.") and key.endswith(".factor")
    ]
    if int(_number(header, "llama.expert_count", 0)):
        places.append("several experts")
    if places:
        raise UnsupportedOperators(places)
    width, heads = int(_number(header, "llama.embedding_length")), int(_number(header, "llama.attention.head_count"))
    head = int(_number(header, "llama.attention.key_length", width // heads))
    shape = Shape(
        layers=layers,
        width=width,
        heads=heads,
        groups=int(_number(header, "llama.attention.head_count_kv", heads)),
        head=head,
        inner=int(_number(header, "llama.feed_forward_length")),
        vocabulary=next(tensor.dimensions[1] for tensor in header.tensors if tensor.name == "token_embd.weight"),
        context=int(_number(header, "llama.context_length")),
        rotation_base=float(_number(header, "llama.rope.freq_base", 10_000.0)),
        epsilon=float(_number(header, "llama.attention.layer_norm_rms_epsilon")),
        tied="output.weight" not in names,
    )
    if shape.heads % shape.groups or shape.head % 2 or int(_number(header, "llama.rope.dimension_count", head)) != head:
        raise CannotCompile("heads are whole groups, and each is rotated whole")
    return shape


# --- The tokeniser -------------------------------------------------------------------------------------------------


def _vocabulary(header: Gguf, reader: Any) -> Vocabulary:
    kind, cut = header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre") or "gpt-2"
    if kind != "gpt2" or cut not in _PRE:
        raise UnsupportedOperators(
            [f"tokeniser {kind}, {cut}: byte-level pair encoding as of {', '.join(_PRE)} is known"]
        )
    written = cast("list[str]", reader.fields["tokenizer.ggml.tokens"].contents())
    kinds = cast("list[int]", reader.fields["tokenizer.ggml.token_type"].contents())
    merges = cast("list[str]", reader.fields["tokenizer.ggml.merges"].contents())
    special = frozenset(index for index, each in enumerate(kinds) if each != _PLAIN)
    alphabet = byte_alphabet()
    try:
        tokens = tuple(
            token.encode() if index in special else bytes(alphabet[sign] for sign in token)
            for index, token in enumerate(written)
        )
        ids = {token: index for index, token in enumerate(tokens) if index not in special}
        triples = tuple(_merge(line, alphabet, ids) for line in merges)
    except KeyError as error:
        raise CannotCompile(
            "the vocabulary's tokens and merges do not fit each other", token=str(error)[:64]
        ) from error
    return Vocabulary(tokens, triples, special, *character_classes(), digits=_PRE[cut])


def _merge(line: str, alphabet: Mapping[str, int], ids: Mapping[bytes, int]) -> tuple[int, int, int]:
    first, _, second = line.partition(" ")
    left, right = (bytes(alphabet[sign] for sign in part) for part in (first, second))
    return ids[left], ids[right], ids[left + right]


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable sign for each byte (openai/gpt-2, encoder.py, bytes_to_unicode), inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


@functools.cache
def character_classes() -> tuple[Ranges, Ranges, Ranges]:
    """Letters, numbers and white space. From a file here, so that every release of Python compiles the same tokeniser."""
    text = (Path(__file__).parent / "characters.txt").read_text(encoding="ascii")
    classes: dict[str, list[int]] = {}
    found: list[int] = []
    for line in text.splitlines():
        if line.endswith(":"):
            found = classes.setdefault(line[:-1], [])
        elif not line.startswith("#"):
            found.extend(int(border, 16) for border in line.split())
    return tuple(classes["letters"]), tuple(classes["numbers"]), tuple(classes["spaces"])


def _end(header: Gguf, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The end tokens that the file names, and those that are the end of a turn by their name (as llama.cpp takes them)."""
    found = {
        int(_number(header, key))
        for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        if key in header.metadata
    }
    names = (b"<|im_end|>", b"<|endoftext|>", b"<|eot_id|>", b"<|end|>", b"</s>")
    found |= {token for token in vocabulary.special if vocabulary.tokens[token] in names}
    return tuple(sorted(token for token in found if 0 <= token < len(vocabulary.tokens)))
