"""Interfaces of the modules, read from the Solidity text that callers compile against: one source for both.

Rules:
1. A file holds one `interface`, with functions, events and errors over the types of abi.py, and comments. What is not
   understood is refused when the module is loaded.
2. A selector is the first 4 bytes of keccak-256 of the signature, a topic all 32 (Contract ABI Specification).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

from avow.chain import abi
from avow.errors import EncodingError
from avow.receipt.requester import keccak256


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    kind: str
    indexed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.kind, "internalType": self.kind}


def _signature(name: str, parameters: tuple[Parameter, ...]) -> str:
    return f"{name}({','.join([parameter.kind for parameter in parameters])})"


@dataclass(frozen=True)
class Function:
    """A function of an interface. `mutability`: "nonpayable", "payable" or "view"."""

    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    mutability: str

    @cached_property
    def selector(self) -> bytes:
        return keccak256(_signature(self.name, self.inputs).encode())[:4]

    def encode_call(self, *arguments: Any) -> bytes:
        """Call data: selector and arguments."""
        return self.selector + abi.encode([parameter.kind for parameter in self.inputs], arguments)

    def decode_output(self, data: bytes) -> list[Any]:
        return abi.decode([parameter.kind for parameter in self.outputs], data)

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "function",
            "name": self.name,
            "inputs": [parameter.to_json() for parameter in self.inputs],
            "outputs": [parameter.to_json() for parameter in self.outputs],
            "stateMutability": self.mutability,
        }


@dataclass(frozen=True)
class EventType:
    name: str
    inputs: tuple[Parameter, ...]

    @cached_property
    def topic(self) -> bytes:
        return keccak256(_signature(self.name, self.inputs).encode())

    def encode(self, *values: Any) -> tuple[tuple[bytes, ...], bytes]:
        """Topics and data of one event. Indexed parameters are of static types."""
        topics = [self.topic]
        kinds, rest = [], []
        for parameter, value in zip(self.inputs, values, strict=True):
            if parameter.indexed:
                topics.append(abi.encode([parameter.kind], [value]))
            else:
                kinds.append(parameter.kind)
                rest.append(value)
        return tuple(topics), abi.encode(kinds, rest)

    def decode_data(self, data: bytes) -> list[Any]:
        """The values of the parameters that are not indexed."""
        return abi.decode([parameter.kind for parameter in self.inputs if not parameter.indexed], data)

    def to_json(self) -> dict[str, Any]:
        inputs = [parameter.to_json() | {"indexed": parameter.indexed} for parameter in self.inputs]
        return {"type": "event", "name": self.name, "inputs": inputs, "anonymous": False}


@dataclass(frozen=True)
class ErrorType:
    name: str
    inputs: tuple[Parameter, ...]

    @cached_property
    def selector(self) -> bytes:
        return keccak256(_signature(self.name, self.inputs).encode())[:4]

    def encode(self, *values: Any) -> bytes:
        return self.selector + abi.encode([parameter.kind for parameter in self.inputs], values)

    def to_json(self) -> dict[str, Any]:
        return {"type": "error", "name": self.name, "inputs": [parameter.to_json() for parameter in self.inputs]}


@dataclass(frozen=True)
class Interface:
    name: str
    functions: dict[str, Function]
    events: dict[str, EventType]
    errors: dict[str, ErrorType]

    def to_json(self) -> list[dict[str, Any]]:
        """The JSON ABI, as web3 clients take it."""
        functions = [function.to_json() for function in self.functions.values()]
        events = [event.to_json() for event in self.events.values()]
        return functions + events + [error.to_json() for error in self.errors.values()]


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INTERFACE = re.compile(r"\s*pragma solidity [^;]+;\s*interface (\w+) \{(.*)\}\s*", re.DOTALL)
_MEMBER = re.compile(r"(function|event|error) (\w+)\(([^)]*)\)\s*(.*)", re.DOTALL)
_TAIL = re.compile(r"external(?: (view|payable))?(?: returns \(([^)]*)\))?")
_PARAMETER = re.compile(r"([a-z0-9]+(?:\[\])?)(?: (?:calldata|memory))?( indexed)?(?: (\w+))?")


def parse_interface(text: str) -> Interface:
    """The interface in a Solidity text. Raises EncodingError for what rule 1 leaves out."""
    found = _INTERFACE.fullmatch(_COMMENT.sub("", text))
    if found is None:
        raise EncodingError("not one Solidity interface")
    functions: dict[str, Function] = {}
    events: dict[str, EventType] = {}
    errors: dict[str, ErrorType] = {}
    for piece in found[2].split(";"):
        declaration = " ".join(piece.split())
        if not declaration:
            continue
        member = _MEMBER.fullmatch(declaration)
        if member is None:
            raise EncodingError(f"not understood: {declaration}")
        what, name, inputs, tail = member[1], member[2], _parameters(member[3]), member[4]
        if name in functions or name in events or name in errors:
            raise EncodingError(f"{name} is declared twice")
        if what == "function":
            functions[name] = _function(name, inputs, tail)
        elif tail:
            raise EncodingError(f"not understood: {declaration}")
        elif what == "event":
            events[name] = EventType(name, inputs)
        else:
            errors[name] = ErrorType(name, inputs)
    return Interface(found[1], functions, events, errors)


def _function(name: str, inputs: tuple[Parameter, ...], tail: str) -> Function:
    found = _TAIL.fullmatch(tail)
    if found is None:
        raise EncodingError(f"{name} is not an external function")
    return Function(name, inputs, _parameters(found[2] or ""), found[1] or "nonpayable")


def _parameters(text: str) -> tuple[Parameter, ...]:
    result = []
    for piece in text.split(",") if text.strip() else ():
        found = _PARAMETER.fullmatch(piece.strip())
        if found is None:
            raise EncodingError(f"not a parameter: {piece.strip()}")
        abi.check_type(found[1])
        if found[2] and abi.is_dynamic(found[1]):
            raise EncodingError(f"an indexed parameter of a dynamic type: {piece.strip()}")
        result.append(Parameter(found[3] or "", found[1], bool(found[2])))
    return tuple(result)


def load_interface(package: str, file: str) -> Interface:
    """The interface in a file that is part of the code."""
    return parse_interface(resources.files(package).joinpath(file).read_text("utf-8"))
