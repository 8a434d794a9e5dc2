"""What a file that somebody wants to compile is, told from its first bytes: a model that we take, or what else."""

from pathlib import Path

from avow.errors import InputError
from avow.models.errors import UnsafeModel

GGUF = b"GGUF"
EXACT = b"AVOWEXACT1\n"
LOOKED_AT = 4_096
_OTHERS = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's checkpoints are"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (b"\x7fELF", "a program of this machine"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"SQLite format 3\x00", "a database"),
)
EXPECTED = "expected is an ONNX model (.onnx) or a chat model of the Llama family (.gguf)"


class NotAModel(InputError):
    """The file is not a model that can be compiled."""

    code = "not_a_model"


def is_gguf(path: Path) -> bool:
    """Whether the file is GGUF, or an ONNX model perhaps. Raises NotAModel for what can be neither, and says what it is."""
    with path.open("rb") as stream:
        head = stream.read(LOOKED_AT)
    if head.startswith(GGUF):
        return True
    if head.startswith(EXACT):
        raise NotAModel(
            f"{path.name} is an exact program already: there is nothing to compile", hint="`avow model add` takes it"
        )
    found = _what(head)
    if found:
        raise NotAModel(f"{path.name} is {found}, and no model", hint=EXPECTED)
    return False


def not_sound(path: Path, why: UnsafeModel) -> UnsafeModel:
    """For bytes of which ONNX's reader makes nothing, or nothing sound."""
    return UnsafeModel(f"{path.name} is not a sound ONNX model: {why.detail}", hint=EXPECTED, **why.fields)


def _what(head: bytes) -> str | None:
    """What the bytes are, if they are surely no ONNX model: that begins with a field of a few bytes, mostly 0x08."""
    if not head:
        return "an empty file"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 28:
        return "a safetensors file, which holds weights and no graph"
    if _is_text(head):
        return "a text"
    return None


def _is_text(head: bytes) -> bool:
    for cut in range(4):  # a character may be cut at the end of what was read
        try:
            text = head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return all(character.isprintable() or character in "\r\n\t\f" for character in text)
    return False
