"""What may be loaded: files that are what they say, options that are known, and no way in beside."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from avow.engines import load
from avow.engines.errors import EngineClosed, EngineFailed, InvalidOptions, UnsupportedParameter, WrongKind
from avow.errors import AvowError
from avow.models import catalogue
from avow.models.errors import DigestMismatch, UnsafeModel
from avow.models.manifest import File, Manifest
from avow.models.store import Store, StoredProgram
from tests.models.builders import base_entries, gguf, u32

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, directory=tmp_path / "models")


def program_of(store, data, **options):
    path = store.directory.parent / "m.gguf"
    path.write_bytes(data)
    file = File("m.gguf", len(data), hashlib.sha256(data).digest())
    manifest = Manifest("m", "gguf", "llama", (file,), {"template": "x", **options}, "MIT", "test")
    return store.get(store.add(manifest, {"m.gguf": path}))


def test_a_hostile_header_never_reaches_the_engine(store):
    with pytest.raises(UnsafeModel):
        load(program_of(store, gguf({**base_entries(), "heads": u32("llama.attention.head_count", 0)})))


@pytest.mark.parametrize("entries", [{}, {"rope": u32("llama.rope.dimension_count", 16)}])
def test_a_sound_header_of_no_model_is_a_clear_and_quiet_error(store, entries):
    """In a process of its own: the library must neither abort nor write to anybody's terminal."""
    program = program_of(store, gguf({**base_entries(), **entries}))
    code = f"""
from pathlib import Path
from avow.engines import load
from avow.engines.errors import EngineFailed
from avow.models.store import Store
store = Store(Path({str(store.directory)!r}), directory=Path({str(store.directory)!r}))
try:
    load(store.get(bytes.fromhex({program.program_id.hex()!r})))
except EngineFailed:
    print("refused")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("refused\n", "", 0)


def test_a_changed_file_is_not_loaded(store):
    program = program_of(store, gguf())
    path = program.paths["m.gguf"]
    path.chmod(0o644)
    path.write_bytes(gguf()[:-1] + b"?")
    with pytest.raises(DigestMismatch):
        load(program)


@pytest.mark.parametrize(
    "options",
    [
        {"context": 100},
        {"context": 300},
        {"context": "512"},
        {"threads": 8},
        {"template": ""},
        {"tools": "native"},
        {"flash_attention": 1},
        {"defaults": {"temperature": "3"}},
        {"defaults": {"temperature": "1e1"}},
        {"defaults": {"mirostat": 1}},
        {"defaults": 5},
        {"model": "other.gguf"},
    ],
)
def test_options_are_checked_before_anything_is_loaded(store, options):
    with pytest.raises(AvowError) as refused:
        load(program_of(store, gguf(), **options))
    assert not isinstance(refused.value, EngineFailed)


@pytest.mark.parametrize(
    ("engine", "form"), [("llama", "onnx"), ("onnx", "gguf"), ("pickle", "gguf"), ("remote", "gguf")]
)
def test_an_engine_runs_its_own_formats_only(engine, form):
    manifest = Manifest("m", form, engine, (File("m", 1, bytes(32)),), {}, "MIT", "test")
    with pytest.raises(InvalidOptions):
        load(StoredProgram(manifest.program_id, manifest, {"m": Path("/nowhere")}))


@pytest.mark.model
@pytest.mark.xdist_group("smollm2")
class TestSmollm2:
    def test_nothing_listens_and_nothing_is_left_behind(self, smollm2):
        inodes = set()
        for link in Path("/proc/self/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        listening = {
            line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        }
        assert not inodes & listening
        paths = [
            line.split()[7] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) == 8
        ]
        assert not any(Path(path).exists() for path in paths if "avow-llama-" in path)

    def test_a_closed_engine_says_so(self, model_store):
        engine = load(model_store.get(catalogue.install(model_store, catalogue.DEFAULT_CHAT)), slots=1)
        effective = engine.effective(ASK)
        engine.close()
        engine.close()
        with pytest.raises(EngineClosed):
            engine.chat(ASK, effective)

    def test_an_engine_may_be_closed_as_soon_as_it_is_loaded(self, model_store):
        program = model_store.get(catalogue.install(model_store, catalogue.DEFAULT_CHAT))
        for _ in range(5):
            load(program, slots=1).close()

    @pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for x in %}"])
    def test_a_template_that_does_not_render_is_noticed_at_once(self, model_store, template):
        entry = catalogue.entry(catalogue.DEFAULT_CHAT).manifest
        options = {**entry.options, "template": template}
        broken = Manifest(entry.name, entry.format, entry.engine, entry.files, options, entry.licence, entry.source)
        stored = model_store.get(catalogue.install(model_store, catalogue.DEFAULT_CHAT))
        with pytest.raises(AvowError):
            load(StoredProgram(broken.program_id, broken, stored.paths), slots=1)

    def test_it_takes_no_tensors(self, smollm2):
        with pytest.raises(WrongKind):
            smollm2.infer({})

    def test_a_program_without_a_convention_for_tools_calls_none(self, model_store, tmp_path):
        entry = catalogue.entry(catalogue.DEFAULT_CHAT).manifest
        options = {**entry.options, "tools": "none"}
        plain = Manifest(entry.name, entry.format, entry.engine, entry.files, options, entry.licence, entry.source)
        stored = model_store.get(catalogue.install(model_store, catalogue.DEFAULT_CHAT))
        engine = load(StoredProgram(plain.program_id, plain, stored.paths), slots=1)
        tool = {"type": "function", "function": {"name": "f"}}
        with pytest.raises(UnsupportedParameter):
            engine.effective({**ASK, "tools": [tool]})
        engine.close()
