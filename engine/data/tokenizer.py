"""Training and loading tokenizers: all of them ``tokenizers.Tokenizer`` objects saved as ``tokenizer.json``.

Ours are lossless: bpe, wordpiece and unigram work on the 256 printable stand-ins for bytes (Radford et al. 2019,
section 2.2), so that decoding gives back every text exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.contract.errors import DataError
from engine.contract.spec import TokenizerSpec
from engine.data.special import EOS, EOS_NAMES, UNKNOWN

CONTINUES = "\u203f"
"""Marks a WordPiece inside a word. The customary ``##`` occurs in text; this is no byte's stand-in."""
LONGEST_WORD = 64
"""Characters after which wordpiece and unigram cut a word: their effort grows with its square."""


class TokenizerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What packing needs to know of a tokenizer."""

    vocabulary: int
    """One more than the largest id."""
    eos_id: int | None
    unknown_id: int | None


def train_tokenizer(spec: TokenizerSpec, texts: Iterable[str], characters: str = "") -> Tokenizer:
    """A new tokenizer of ``spec.kind``; ``texts`` is the sample, ``characters`` the alphabet of kind characters.

    Training on the same texts gives the same bpe and wordpiece every time; unigram's sums of small probabilities
    depend on the library's order of work. Raises DataError where ``spec.vocabulary`` cannot hold the alphabet.
    """
    if spec.kind == "bytes":
        return _bytes_tokenizer()
    if spec.kind == "characters":
        return _character_tokenizer(characters)
    sample = list(texts)
    if spec.kind == "bpe":
        return _train_bpe(spec.vocabulary, sample)
    alphabet = _alphabet(spec, sample)
    if spec.kind == "wordpiece":
        return _train_wordpiece(spec.vocabulary, sample, alphabet)
    assert spec.kind == "unigram"
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = _short_words(LONGEST_WORD)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.UnigramTrainer(
        vocab_size=spec.vocabulary, special_tokens=[EOS, UNKNOWN], initial_alphabet=alphabet, show_progress=False,
        unk_token=UNKNOWN,
    )  # fmt: skip
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _alphabet(spec: TokenizerSpec, sample: Sequence[str]) -> list[str]:
    """Stand-ins of all bytes, so that no text is unknown; of those in the sample where there is no room for more."""
    signs = byte_signs()
    places = 2 if spec.kind == "wordpiece" else 1  # beginning a word, and continuing it
    if spec.vocabulary >= 2 * places * len(signs):
        return sorted(signs)
    seen = {byte for text in sample for byte in set(text.encode())}
    needed = 2 + places * len(seen)
    if spec.vocabulary < needed:
        raise DataError(
            "The tokenizer's vocabulary is too small",
            f"tokenizer.vocabulary is {spec.vocabulary}, but the single bytes of this text alone take {needed} entries",
            f"set tokenizer.vocabulary to {2 * needed} or more, or use kind bytes",
        )
    return sorted(signs[byte] for byte in seen)


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _short_words(length: int) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([_words(), pre_tokenizers.FixedLength(length=length)])


def _train_bpe(vocabulary: int, sample: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # Training, unlike encoding, takes time with the square of a word's length.
    tokenizer.pre_tokenizer = _short_words(4 * LONGEST_WORD)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[EOS], initial_alphabet=sorted(byte_signs()), show_progress=False
    )
    tokenizer.train_from_iterator(sample, trainer)
    tokenizer.pre_tokenizer = _words()
    return tokenizer


def _train_wordpiece(vocabulary: int, sample: Sequence[str], signs: Sequence[str]) -> Tokenizer:
    """Every sign gets a piece that begins a word and one that continues it.

    Its trainer takes an alphabet for the beginnings only and numbers the rest in the order of a hash table, another
    one each time. Handed over as special tokens they have fixed numbers, and training gives the same every time; the
    tokenizer itself is then built from the vocabulary alone.
    """
    scratch = Tokenizer(models.WordPiece(unk_token=UNKNOWN, continuing_subword_prefix=CONTINUES))
    scratch.pre_tokenizer = _short_words(LONGEST_WORD)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[EOS, UNKNOWN, *signs, *(CONTINUES + sign for sign in signs)],
        continuing_subword_prefix=CONTINUES, show_progress=False,
    )  # fmt: skip
    scratch.train_from_iterator(sample, trainer)
    tokenizer = Tokenizer(
        models.WordPiece(vocab=scratch.get_vocab(), unk_token=UNKNOWN, continuing_subword_prefix=CONTINUES)
    )
    tokenizer.pre_tokenizer = _short_words(LONGEST_WORD)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(CONTINUES, ""), decoders.ByteLevel()])
    tokenizer.add_special_tokens([EOS, UNKNOWN])
    return tokenizer


def _bytes_tokenizer() -> Tokenizer:
    """Ids 0-255 are the bytes of UTF-8, 256 is the end of a document."""
    tokenizer = Tokenizer(models.BPE(vocab={sign: byte for byte, sign in enumerate(byte_signs())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS])
    return tokenizer


def byte_signs() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's ``bytes_to_unicode``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _character_tokenizer(characters: str) -> Tokenizer:
    """``<eos>`` is 0, ``<unk>`` 1, then the characters in code-point order."""
    vocabulary = {EOS: 0, UNKNOWN: 1}
    for character in sorted(set(characters)):
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([EOS, UNKNOWN])
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, set to encode whole texts and special tokens' names as plain text.

    Raises DataError where the file is missing or is not one.
    """
    if not path.is_file():
        raise DataError("The tokenizer is missing", f"there is no file {path}", "check tokenizer.file")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare class for whatever is wrong with a file
        raise DataError(
            "The tokenizer cannot be read",
            f"{path} is not a valid tokenizer.json: {error}",
            "give the tokenizer.json that the tokenizers or transformers library saved",
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def facts_of(tokenizer: Tokenizer) -> TokenizerFacts:
    """Size of the vocabulary and the ids of its end-of-document and unknown tokens."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    eos = next((ids[name] for name in EOS_NAMES if name in ids), None)
    content = msgspec.json.decode(tokenizer.to_str())
    model = content.get("model", {})
    unknown = model.get("unk_token")
    unknown_id = model.get("unk_id") if unknown is None else ids.get(unknown)
    return TokenizerFacts(vocabulary=max(ids.values(), default=-1) + 1, eos_id=eos, unknown_id=unknown_id)
