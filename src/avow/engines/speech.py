"""Speech detection: audio in, the probability of speech for each frame out.

Silero VAD's own preparation at 16 kHz (snakers4/silero-vad, utils_vad.py): frames of 512 samples, each with the 64 samples before it
in front (zeros before the first); the last frame is filled up with zeros.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from avow.engines.errors import InvalidOptions, InvalidTensor
from avow.engines.inference_protocol import InputTensor
from avow.engines.onnx import Array, Run, TensorInfo, to_array

FRAME = 512
CONTEXT = 64
MAX_SECONDS = 600
RATE = 16_000


class SpeechProcessor:
    """Samples in (FP32, −1 … 1, 16 kHz), a probability for every 32 ms out."""

    inputs: Sequence[TensorInfo] = (TensorInfo("audio", "FP32", (None,)),)
    outputs: Sequence[TensorInfo] = (TensorInfo("probability", "FP32", (None,)),)

    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> None:
        if len(inputs) != 1 or inputs[0].shape != (None, FRAME + CONTEXT) or len(outputs) != 1:
            raise InvalidOptions("the program does not take frames of 512 samples at 16 kHz", engine="exact")
        self._input, self._output = inputs[0].name, outputs[0].name

    def infer(self, tensors: Mapping[str, InputTensor], run: Run) -> dict[str, tuple[str, Array]]:
        """The probability of speech in each frame. Raises InvalidTensor."""
        audio = to_array(tensors["audio"])
        if not 1 <= len(audio) <= MAX_SECONDS * RATE:
            raise InvalidTensor(f"from one sample to {MAX_SECONDS} seconds", param="inputs.audio.shape")
        found = run({self._input: frames(audio)})[self._output]
        return {"probability": ("FP32", found.reshape(-1).astype(np.float32))}


def frames(audio: Array) -> Array:
    """[frames, 576]: each with what stands before it."""
    count = -(-len(audio) // FRAME)
    padded = np.zeros(CONTEXT + count * FRAME, dtype=np.float32)
    padded[CONTEXT : CONTEXT + len(audio)] = audio
    return np.stack([padded[at * FRAME : at * FRAME + FRAME + CONTEXT] for at in range(count)])
