import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engine.contract.errors import DataError
from engine.contract.spec import TokenizerKind, TokenizerSpec
from engine.data.encoding import PlainEncoder, encoder_for
from engine.data.tokenizer import byte_signs, facts_of, load_tokenizer, train_tokenizer

TEXTS = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))] + [
    "漢字かな交じり文、Größe, naïve\n" * 30
]
KINDS: list[TokenizerKind] = ["bytes", "characters", "bpe", "wordpiece", "unigram"]
anything = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60)
tricky = st.text(alphabet=st.sampled_from("ab1'_ \t\n\r\x1c\x85\xa0\u3000é'sdon漢字½٣.,#‿"), max_size=60)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for kind in KINDS:
        characters = "".join(TEXTS) if kind == "characters" else ""
        train_tokenizer(TokenizerSpec(kind=kind, vocabulary=1100), TEXTS, characters).save(str(folder / kind))
        made[kind] = load_tokenizer(folder / kind)
    return made


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=anything | tricky)
def test_quick_encoding_equals_the_tokenizers(tokenizers: dict[str, Tokenizer], kind: TokenizerKind, text: str) -> None:
    tokenizer = tokenizers[kind]
    quick = encoder_for(kind, tokenizer, np.uint16).encode([text, text])
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert [ids.tolist() for ids in quick] == [expected, expected]
    if kind != "characters":
        assert tokenizer.decode(expected, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_real_text_survives(tokenizers: dict[str, Tokenizer], kind: TokenizerKind) -> None:
    tokenizer = tokenizers[kind]
    encoder = encoder_for(kind, tokenizer, np.uint16)
    for text, ids in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    facts = facts_of(tokenizer)
    assert facts.eos_id is not None
    assert tokenizer.id_to_token(facts.eos_id) == "<eos>"
    assert (facts.unknown_id is not None) == (kind in ("characters", "wordpiece", "unigram"))
    assert facts.vocabulary == tokenizer.get_vocab_size()
    if kind in ("bpe", "wordpiece", "unigram"):
        assert facts.vocabulary <= 1100


def test_bytes_are_bytes(tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers["bytes"].encode("é\n").ids == [0xC3, 0xA9, 0x0A]
    assert facts_of(tokenizers["bytes"]).vocabulary == 257
    assert len(set(byte_signs())) == 256


def test_characters_without_a_place_are_unknown(tokenizers: dict[str, Tokenizer]) -> None:
    facts = facts_of(tokenizers["characters"])
    assert tokenizers["characters"].encode("a" + chr(0x2603)).ids[1] == facts.unknown_id


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_special_token_in_text_stays_text(tokenizers: dict[str, Tokenizer], kind: TokenizerKind) -> None:
    facts = facts_of(tokenizers[kind])
    (ids,) = encoder_for(kind, tokenizers[kind], np.uint16).encode(["a <eos> b"])
    assert facts.eos_id not in ids.tolist()


def test_training_twice_gives_the_same() -> None:
    for kind in ("bpe", "wordpiece"):
        spec = TokenizerSpec(kind=kind, vocabulary=500)
        assert train_tokenizer(spec, TEXTS).to_str() == train_tokenizer(spec, TEXTS).to_str()


def test_a_word_without_end_is_no_trouble() -> None:
    text = "ACGT" * 20_000
    began = time.process_time()
    for kind in ("bpe", "wordpiece", "unigram"):
        tokenizer = train_tokenizer(TokenizerSpec(kind=kind, vocabulary=300), [text])
        (ids,) = encoder_for(kind, tokenizer, np.uint16).encode([text])
        assert facts_of(tokenizer).unknown_id not in ids.tolist()
        assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
    assert time.process_time() - began < 5


def test_a_vocabulary_takes_what_it_may_or_says_what_it_needs() -> None:
    text = "the quick brown fox jumps over the lazy dog " * 20
    for kind in ("wordpiece", "unigram"):
        tokenizer = train_tokenizer(TokenizerSpec(kind=kind, vocabulary=100), [text])
        assert facts_of(tokenizer).vocabulary <= 100
        with pytest.raises(DataError, match=r"take \d+ entries") as caught:
            train_tokenizer(TokenizerSpec(kind=kind, vocabulary=100), ["".join(map(chr, range(300)))])
        assert "tokenizer.vocabulary" in caught.value.hint


def test_a_long_text_is_encoded_in_pieces(tokenizers: dict[str, Tokenizer]) -> None:
    text = "def f(x):\n    return x\n\n" * 10_000
    (ids,) = PlainEncoder(tokenizers["bpe"], np.uint16).encode([text])
    assert tokenizers["bpe"].decode(ids.tolist()) == text


@pytest.mark.parametrize("content", [None, b"", b"not json", b"{}", b'{"model": {"type": "Nonsense"}}', b"\xff\xfe"])
def test_an_invalid_tokenizer_file_says_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_tokenizer(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
