"""From a GGUF to a program that chats: what is refused, what comes out, how near it is to the floats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from avow.engines import load
from avow.exact import files
from avow.exact.compile.chat_program import add_chat_program, calibration_text, compile_gguf, joined, report, windows
from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.compile.gguf_model import byte_alphabet, read_model
from avow.exact.compile.llama import Settings, compile_llama, multipliers, quantised, rounded_up
from avow.exact.compile.quality import cut, measure
from avow.exact.tokeniser import Tokeniser
from avow.models.store import Store
from tests.exact.language_model import SHAPE, model, program, vocabulary

TEXTS = joined([calibration_text()[:400], "<|im_start|>user\nthe sea<|im_end|>\n"])


def write(
    path: Path, *, architecture: str = "llama", pre: str = "smollm", extra: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """The small model as a GGUF file, of float32 tensors."""
    writer = GGUFWriter(path, architecture)
    values = {
        "block_count": SHAPE.layers, "context_length": SHAPE.context, "embedding_length": SHAPE.width, "feed_forward_length": SHAPE.inner,
        "attention.head_count": SHAPE.heads, "attention.head_count_kv": SHAPE.groups, "attention.key_length": SHAPE.head,
        "rope.dimension_count": SHAPE.head,
    } | changes  # fmt: skip
    for name, value in values.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", SHAPE.epsilon)
    writer.add_float32(f"{architecture}.rope.freq_base", SHAPE.rotation_base)
    writer.add_name("Small")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    signs = {byte: sign for sign, byte in byte_alphabet().items()}
    found = vocabulary()
    written = ["".join(signs[byte] for byte in token) for token in found.tokens]
    for token in found.special:
        written[token] = found.tokens[token].decode()
    writer.add_token_list(written)
    writer.add_token_types([3 if token in found.special else 1 for token in range(len(written))])
    writer.add_token_merges([f"{written[left]} {written[right]}" for left, right, _ in found.merges])
    writer.add_eos_token_id(266)
    for name, read in model().weights._tensors.items():
        writer.add_tensor(name, np.asarray(read(), np.float32))
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_becomes_a_program_that_chats(tmp_path: Path) -> None:
    compiled = compile_gguf(write(tmp_path / "small.gguf"), tmp_path, settings=Settings(context=128), text=TEXTS)
    assert files.load(compiled.files["program.exact"]).root == compiled.program.root
    assert compiled.program.end == (264, 266)
    assert compiled.tokeniser.vocabulary == vocabulary()
    assert dict(report(compiled))["program root"] == compiled.program.root.hex()
    store = Store(tmp_path, directory=tmp_path / "store")
    engine = load(store.get(add_chat_program(store, compiled, name="small", licence="MIT", source="test")))
    asked = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "temperature": 0}
    assert engine.chat(asked, engine.effective(asked))["usage"]["completion_tokens"] >= 1


def test_one_model_gives_one_program(tmp_path: Path) -> None:
    path = write(tmp_path / "small.gguf")
    found = [
        compile_gguf(path, tmp_path, settings=Settings(context=context), text=TEXTS).program.root
        for context in (96, 96, 97)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "qwen2"}, "qwen2"),
        ({"pre": "llama-bpe"}, "llama-bpe"),
        ({"extra": {"blk.0.attn_q.bias": np.zeros(24, np.float32)}}, "blk.0.attn_q.bias"),
        ({"block_count": 3}, "blk.2.attn_k.weight"),
        ({"expert_count": 4}, "experts"),
    ],
)
def test_what_the_language_cannot_say_is_named_before_any_work(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedOperators) as refused:
        read_model(write(tmp_path / "bad.gguf", **changes))
    assert named in str(refused.value)


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "small.gguf")
    for settings, text in (
        (Settings(context=0), TEXTS),
        (Settings(context=4096), TEXTS),
        (Settings(context=64), ""),
        (Settings(), "x" * (1 << 21)),
    ):
        with pytest.raises(CannotCompile):
            compile_gguf(path, tmp_path, settings=settings, text=text)
    with pytest.raises(CannotCompile):
        read_model(write(tmp_path / "odd.gguf", **{"rope.dimension_count": 4}))


def test_integers_stay_near_the_floats() -> None:
    random = np.random.default_rng(5)
    windows_ = cut(random.integers(0, SHAPE.vocabulary, 240).tolist(), 60, 4)
    assert len(windows_) == 4
    found = measure(model(), program(context=80), windows_)
    assert found.tokens == 4 * 59
    # Random weights predict nothing, so the perplexity is enormous: its logarithm, the mean loss, is what may be compared.
    assert np.log(found.exact_perplexity) == pytest.approx(np.log(found.float_perplexity), rel=0.01)
    assert found.agreement > 0.95


def test_an_untied_head_is_a_constant_of_its_own() -> None:
    tied, own = program(context=80), program(context=80, tied=False)
    assert len(own.constants) > len(tied.constants)


def test_more_context_than_proofs_can_open_is_refused() -> None:
    from avow.exact.errors import BadProgram
    from avow.exact.specification import bounds

    found = compile_llama(model(), [np.arange(60)], Settings(context=512))
    assert max(bounds.check(found)) < 1 << 30
    with pytest.raises((BadProgram, CannotCompile)):
        compile_llama(model(), [np.arange(60)], Settings(context=2_049))


def test_calibration_texts_are_windows_with_marks() -> None:
    tokeniser = Tokeniser(vocabulary())
    found = windows(tokeniser, TEXTS, 64)
    assert len(found) == 2
    assert found[1][0] == tokeniser.special("<|im_start|>")
    assert all(len(each) <= 64 for each in found)


def test_multipliers_are_near_and_in_range() -> None:
    factors = np.array([1e-12, 3e-9, 0.1, 0.5, 1 - 2**-20, 1.0, 3.7, 16_000.0])
    m, s = multipliers(factors)
    assert ((m >= 1) & (m < 1 << 15) & (s >= 1) & (s <= 45)).all()
    assert m[1:] * 2.0 ** -s[1:].astype(float) == pytest.approx(factors[1:], rel=1e-3)
    with pytest.raises(CannotCompile):
        multipliers(np.array([40_000.0]))


def test_statistics_are_rounded_up_to_eight_bits() -> None:
    values = np.array([1.0, 1.003, 255.0, 0.1, 1e-5])
    rounded = rounded_up(values)
    assert (rounded >= values).all()
    assert rounded == pytest.approx(values, rel=1 / 128)
    assert (rounded_up(rounded * (1 - 1e-12)) == rounded).all()


def test_weights_use_their_rows_range() -> None:
    integers, scales = quantised(np.array([[1.0, -2.0], [0.0, 0.0]]))
    assert integers.tolist() == [[64, -127], [0, 0]]
    assert scales[0] == pytest.approx(2 / 127)
