"""Magika's own preparation of a file and reading of the model's scores (google/magika, model standard_v3_3).

The model sees 1,024 bytes from the beginning and 1,024 from the end of a file, white space stripped, padded with token 256.
Its best label stands if its score reaches the label's threshold; else the answer is the generic `txt` or `unknown`. Files of
a few bytes never reach the model. All constants come from the program's config.json and content_types.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from avow.engines.errors import InvalidOptions, InvalidTensor
from avow.engines.inference_protocol import InputTensor, values_of
from avow.engines.onnx import Array, Run, TensorInfo
from avow.models.store import StoredProgram

MAX_FILES = 64
_MAX_CONFIG = 1 << 20

Size = Annotated[int, Meta(ge=0, le=1 << 20)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Config(Struct):
    """config.json: how the model was trained to see a file."""

    beg_size: Size
    mid_size: Size
    end_size: Size
    use_inputs_at_offsets: bool
    medium_confidence_threshold: Fraction
    min_file_size_for_dl: Annotated[int, Meta(ge=1, le=1 << 20)]
    padding_token: Annotated[int, Meta(ge=0, le=65_535)]
    block_size: Annotated[int, Meta(ge=1, le=1 << 24)]
    target_labels_space: list[str]
    thresholds: dict[str, Fraction]
    overwrite_map: dict[str, str]


class ContentType(Struct):
    """An entry of content_types.json."""

    is_text: bool
    mime_type: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """An answer: label and how sure the model is of it."""

    name: str
    score: float


class MagikaProcessor:
    """Files in (BYTES, shape [n]), labels out."""

    inputs: Sequence[TensorInfo] = (TensorInfo("file", "BYTES", (None,)),)
    outputs: Sequence[TensorInfo] = (
        TensorInfo("label", "BYTES", (None,)),
        TensorInfo("score", "FP32", (None,)),
        TensorInfo("mime_type", "BYTES", (None,)),
        TensorInfo("description", "BYTES", (None,)),
    )

    def __init__(
        self,
        program: StoredProgram,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        *,
        together: bool = False,
    ) -> None:
        """`together`: all files in one run, for engines whose samples do not touch each other."""
        self._together = together
        try:
            self._config = msgspec.json.decode(program.read("config.json", limit=_MAX_CONFIG), type=Config)
            types = program.read("content_types.json", limit=_MAX_CONFIG)
            self._types = msgspec.json.decode(types, type=dict[str, ContentType])
        except msgspec.MsgspecError as error:
            raise InvalidOptions("the program's configuration is not magika's", engine="onnx") from error
        config = self._config
        if (
            config.mid_size
            or config.use_inputs_at_offsets
            or max(config.beg_size, config.end_size) >= config.block_size
        ):
            raise InvalidOptions("a magika model of a generation that is not known here", engine="onnx")
        missing = set(config.target_labels_space) | {"txt", "unknown", "empty"} | set(config.overwrite_map.values())
        if len(inputs) != 1 or not outputs or not missing <= set(self._types):
            raise InvalidOptions("the program's configuration does not fit its model", engine="onnx")
        self._input, self._output = inputs[0].name, outputs[0].name

    def infer(self, tensors: Mapping[str, InputTensor], run: Run) -> dict[str, tuple[str, Array]]:
        """The label of each file. Raises InvalidTensor."""
        files: list[bytes] = values_of(tensors["file"])
        if not 1 <= len(files) <= MAX_FILES:
            raise InvalidTensor(f"from 1 to {MAX_FILES} files", param="inputs.file.shape")
        labels = self._labels(files, run)
        kinds = [self._types[label.name] for label in labels]
        return {
            "label": ("BYTES", _texts(label.name for label in labels)),
            "score": ("FP32", np.array([label.score for label in labels], dtype=np.float32)),
            "mime_type": ("BYTES", _texts(kind.mime_type or "application/octet-stream" for kind in kinds)),
            "description": ("BYTES", _texts(kind.description or "" for kind in kinds)),
        }

    def features(self, content: bytes) -> list[int] | None:
        """The tokens that the model sees; None when there is too little to see."""
        config = self._config
        if len(content) < config.min_file_size_for_dl:
            return None
        begin = content[: config.block_size].lstrip()[: config.beg_size]
        end = content[-config.block_size :].rstrip()[-config.end_size :] if config.end_size else b""
        if len(begin) < config.min_file_size_for_dl:
            return None
        padding = [config.padding_token]
        return [*begin, *padding * (config.beg_size - len(begin)), *padding * (config.end_size - len(end)), *end]

    def _labels(self, files: Sequence[bytes], run: Run) -> list[Label]:
        seen = [self.features(content) for content in files]
        rows = [tokens for tokens in seen if tokens is not None]
        # One file a run, else: a float's last bits depend on its neighbours in a batch.
        batches = [rows] if self._together and rows else [[tokens] for tokens in rows]
        scores = iter(
            row for batch in batches for row in run({self._input: np.array(batch, dtype=np.int32)})[self._output]
        )
        return [
            self._small(content) if tokens is None else self._best(next(scores))
            for content, tokens in zip(files, seen, strict=True)
        ]

    def _small(self, content: bytes) -> Label:
        if not content:
            return Label("empty", 1.0)
        return Label(_kind_of_few_bytes(content[: self._config.block_size]), 1.0)

    def _best(self, scores: Array) -> Label:
        best = int(np.argmax(scores))
        return self._decide(self._config.target_labels_space[best], float(scores[best]))

    def _decide(self, found: str, score: float) -> Label:
        config = self._config
        name = config.overwrite_map.get(found, found)
        if score < config.thresholds.get(found, config.medium_confidence_threshold):
            name = "txt" if self._types[name].is_text else "unknown"
        return Label(name, score)


def _kind_of_few_bytes(content: bytes) -> str:
    try:
        content.decode()
    except UnicodeDecodeError:
        return "unknown"
    return "txt"


def _texts(texts: Any) -> Array:
    return np.array(list(texts), dtype=np.object_)
