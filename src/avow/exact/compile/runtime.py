"""The float model's runtime: ONNX Runtime on one thread, without optimisations."""

import functools
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from avow.exact.compile.errors import CannotCompile

Array = npt.NDArray[Any]


def session(model: Any, place: str) -> Any:
    """A session of a parsed model, or of a model's bytes. Raises CannotCompile."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    except failures() as error:
        raise CannotCompile(f"the float model does not load: {str(error)[:300]}", place=place) from error


def run(started: Any, feeds: Mapping[str, Array], place: str) -> list[Array]:
    """All outputs of a session. Raises CannotCompile."""
    try:
        return [np.asarray(value) for value in started.run(None, dict(feeds))]
    except failures() as error:
        raise CannotCompile(f"the float model does not run: {str(error)[:300]}", place=place) from error


def run_model(model: Any, feeds: Mapping[str, Array], place: str) -> list[Array]:
    """All outputs of a model. Raises CannotCompile."""
    return run(session(model, place), feeds, place)


@functools.cache
def failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: exceptions of its own, without a common base, beside Python's."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)
