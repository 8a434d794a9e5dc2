"""The pinned tokeniser: against a slow obvious one, against llama.cpp on real text, and under damage."""

import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import EncodingError, TooLarge
from avow.exact.compile.gguf_model import read_model
from avow.exact.tokeniser import MAX_TEXT, BadTokeniser, Tokeniser, Vocabulary, in_ranges, parse_vocabulary
from avow.models import catalogue
from avow.models.store import Store
from avow.receipt.encoding import decode, encode
from tests.exact.language_model import vocabulary

CACHE = Path(__file__).resolve().parents[2] / "build" / "model-cache"


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser.read(vocabulary().encoded())


def slowly(found: Vocabulary, word: bytes) -> list[int]:
    """Merge by the list's order, one pair at a time, as the definition says."""
    parts = [found.tokens.index(bytes([byte])) for byte in word]
    while True:
        ranked = [
            (rank, at)
            for at in range(len(parts) - 1)
            for rank, (left, right, _) in enumerate(found.merges)
            if (parts[at], parts[at + 1]) == (left, right)
        ]
        if not ranked:
            return parts
        rank, at = min(ranked)
        parts[at : at + 2] = [found.merges[rank][2]]


def words(found: Vocabulary, text: str) -> list[str]:
    """GPT-2's pattern by hand, one character after the other; each digit alone."""

    def kind(sign: str) -> str:
        code = ord(sign)
        if in_ranges(found.letters, code):
            return "L"
        if in_ranges(found.numbers, code):
            return "N"
        return "S" if in_ranges(found.spaces, code) else "O"

    result: list[str] = []
    pieces: list[str] = [""]
    for sign in text:
        if kind(sign) == "N":
            pieces += [sign, ""]
        else:
            pieces[-1] += sign
    for piece in pieces:
        at = 0
        while at < len(piece):
            short = next((s for s in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if piece.startswith(s, at)), None)
            if short:
                result.append(short)
                at += len(short)
                continue
            first = at + 1 if piece[at] == " " and at + 1 < len(piece) and kind(piece[at + 1]) != "S" else at
            if kind(piece[first]) != "S":
                end = first
                while end < len(piece) and kind(piece[end]) == kind(piece[first]):
                    end += 1
            else:
                end = at
                while end < len(piece) and kind(piece[end]) == "S":
                    end += 1
                if end < len(piece) and end - at > 1:
                    end -= 1
            result.append(piece[at:end])
            at = end
    return result


TEXTS = st.text(
    st.one_of(st.sampled_from("the ing er 's 'll\n\t  a1é東٣'\u00a0"), st.characters(codec="utf-8")), max_size=80
)


@settings(max_examples=150)
@given(TEXTS)
def test_text_is_cut_and_merged_as_the_definition_says(text: str) -> None:
    found = vocabulary()
    tokeniser = Tokeniser(found)
    expected = [token for word in words(found, text) for token in slowly(found, word.encode())]
    assert tokeniser.encode(text) == expected
    assert tokeniser.text(expected).decode() == text


def test_long_words_merge_like_short_ones(tokeniser: Tokeniser) -> None:
    letters = random.Random(4)
    word = "".join(letters.choice("thein groua") for _ in range(400)).replace(" ", "q")
    assert tokeniser.encode(word) == slowly(vocabulary(), word.encode())


def test_an_endless_word_takes_no_endless_time(tokeniser: Tokeniser) -> None:
    assert len(tokeniser.encode("the" * 40_000)) == 40_000


def test_special_tokens_are_placed_not_read(tokeniser: Tokeniser) -> None:
    start = tokeniser.special("<|im_start|>")
    assert start not in tokeniser.encode("<|im_start|>")
    assert tokeniser.piece(start) == b""
    with pytest.raises(BadTokeniser):
        tokeniser.special("the")
    for token in (-1, 290):
        with pytest.raises(BadTokeniser):
            tokeniser.piece(token)


def test_what_cannot_be_text_is_refused(tokeniser: Tokeniser) -> None:
    with pytest.raises(EncodingError):
        tokeniser.encode("half \ud83d")
    with pytest.raises(TooLarge):
        tokeniser.encode("x" * (MAX_TEXT + 1))


def test_a_byte_without_a_token_is_left_out() -> None:
    found = vocabulary()
    tokens = (*found.tokens[:200], b"zz200", *found.tokens[201:])
    smaller = Vocabulary(tokens, found.merges, found.special, found.letters, found.numbers, found.spaces, digits=True)
    data = bytes([0xC3, 200, 65]).decode("latin-1").encode("latin-1")
    assert Tokeniser(smaller).text(Tokeniser(smaller).encode("È")) == b"\xc3\x88"
    assert 200 not in Tokeniser(smaller).encode(data.decode("utf-8", "replace"))


def test_the_file_has_one_encoding() -> None:
    data = vocabulary().encoded()
    assert parse_vocabulary(data) == vocabulary()
    value = decode(data)
    assert isinstance(value, dict)
    for change in (
        {"version": 2},
        {"more": 1},
        {"digits": 1},
        {"tokens": []},
        {"tokens": [b"", *value["tokens"][1:]]},
        {"tokens": [b"b", *value["tokens"][1:]]},
        {"merges": value["merges"][:-1]},
        {"merges": [*value["merges"][:-1], 3]},
        {"merges": [*value["merges"], *value["merges"][:3]]},
        {"merges": [10**6, 0, 0]},
        {"special": [5, 5]},
        {"special": [290]},
        {"letters": [5]},
        {"letters": [7, 5]},
        {"spaces": [1, 0x110002]},
        {"numbers": [-1, 5]},
        {"numbers": "digits"},
    ):
        with pytest.raises(BadTokeniser):
            parse_vocabulary(encode({**value, **change}))


@settings(max_examples=150)
@given(st.data())
def test_damaged_files_are_refused_or_another_tokeniser(data: st.DataObject) -> None:
    good = bytearray(vocabulary().encoded())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good)
    try:
        found = parse_vocabulary(cut)
    except BadTokeniser:
        return
    assert found.encoded() == cut


def test_ranges_are_unicode_s() -> None:
    found = vocabulary()
    for code in range(0x3000):
        category = unicodedata.category(chr(code))
        if category != "Cn":
            assert in_ranges(found.letters, code) == (category[0] == "L")
            assert in_ranges(found.numbers, code) == (category[0] == "N")


@pytest.mark.model
@pytest.mark.slow
def test_real_text_gives_llama_cpp_s_tokens() -> None:
    """By counts, piece by piece, and by what the next token is thought to be: log-probabilities are equal for equal tokens alone."""
    from pydoc_data import topics

    from avow.engines import load

    store = Store(CACHE, directory=CACHE)
    program = store.get(catalogue.install(store, catalogue.DEFAULT_CHAT))
    tokeniser = Tokeniser(read_model(next(iter(program.paths.values()))).vocabulary)
    engine = load(program, slots=1)
    pieces = [topics.topics[name][:1500] for name in sorted(topics.topics)[:12]]
    pieces += [
        "naïve café — 東京 2024, ½ ٣٤ Ⅻ\u00a0x\u2003y\t\t z\r\n\r\n  end ",
        "I'll we've you're it's IT'S don't 'sx '' ''' $5.99 #!@ ...",
        "🙂🙃 a\u0301 क्षि नमस्ते 한국어 שלום مرحبا \u200b\ufeff",
        "    indented\n        twice\n\n\n\ttab",
    ]
    try:
        for piece in pieces:
            tokens = tokeniser.encode(piece)
            by_text, by_tokens = (
                engine._server.handle_completions(
                    {"prompt": prompt, "n_predict": 1, "n_probs": 5, "temperature": 0, "cache_prompt": False}
                )
                for prompt in (piece, tokens)
            )
            assert by_text["timings"]["prompt_n"] == len(tokens), piece[:40]
            assert by_text["choices"][0]["logprobs"] == by_tokens["choices"][0]["logprobs"], piece[:40]
    finally:
        engine.close()
