"""Text to token ids, fast: what ``tokenizers`` would give for the same text, several times quicker where it can be.

Bytes and characters are looked up with numpy. For our own byte-level vocabularies a text is cut where their
splitting rule always cuts, and the ids of the chunks, which repeat endlessly in any language, are remembered.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from engine.contract.spec import TokenizerKind
from engine.data.special import UNKNOWN
from engine.data.text import LARGEST_PIECE, cut

Ids = npt.NDArray[np.uint32] | npt.NDArray[np.uint16]


class Encoder(Protocol):
    """Encodes texts without any special tokens."""

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The token ids of each text."""


def encoder_for(kind: TokenizerKind, tokenizer: Tokenizer, dtype: npt.DTypeLike) -> Encoder:
    """The quickest encoder that agrees with ``tokenizer``."""
    if kind == "bytes":
        return ByteEncoder(dtype)
    if kind == "characters":
        return CharacterEncoder(tokenizer, dtype)
    plain = PlainEncoder(tokenizer, dtype)
    return plain if kind == "file" else ChunkEncoder(plain, dtype)


class ByteEncoder:
    """Ids are the bytes of UTF-8."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = dtype

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(self._dtype) for text in texts]


class CharacterEncoder:
    """Ids are looked up by code point."""

    def __init__(self, tokenizer: Tokenizer, dtype: npt.DTypeLike) -> None:
        ids = tokenizer.get_vocab(with_added_tokens=True)
        self._table = np.full(0x110000, ids[UNKNOWN], dtype=dtype)
        for token, number in ids.items():
            if len(token) == 1:
                self._table[ord(token)] = number

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [self._table[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")] for text in texts]


class PlainEncoder:
    """The library's own encoding; very long texts go through it in pieces, which keeps memory flat."""

    def __init__(self, tokenizer: Tokenizer, dtype: npt.DTypeLike) -> None:
        self._tokenizer = tokenizer
        self._dtype = dtype

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        if any(len(text) > LARGEST_PIECE for text in texts):
            return [self._encode_long(text) for text in texts]
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self._dtype) for encoding in found]

    def _encode_long(self, text: str) -> Ids:
        block = text.encode()
        pieces = [piece.decode() for _, piece in cut(block, LARGEST_PIECE, LARGEST_PIECE)]
        parts = []
        for first in range(0, len(pieces), 8):
            found = self._tokenizer.encode_batch_fast(pieces[first : first + 8], add_special_tokens=False)
            parts += [np.array(encoding.ids, dtype=self._dtype) for encoding in found]
        return np.concatenate(parts)


_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The characters of Unicode's White_Space, which the splitting rule means by ``\\s`` (Python's adds four)."""
CHUNK = re.compile(
    rf"[{_SPACE}]+(?![^{_SPACE}])"  # white space but its last character, which belongs to what follows
    rf"|[{_SPACE}]?[^{_SPACE}A-Za-z]*[A-Za-z]+(?=[\x00-@\[-`{{-\x7f]|\Z)"  # up to the end of a word of ASCII letters
    rf"|[{_SPACE}]?[^{_SPACE}]+"
)
"""Cuts only where GPT-2's rule ``'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+``
cuts too: before white space, within it before its last character, and where a run of letters meets an ASCII
character that is none. From such a place on the rule depends on nothing before it."""


class ChunkEncoder:
    """Remembers the ids of chunks; only for tokenizers whose words are GPT-2's and which normalise nothing."""

    MOST_CHUNKS = 250_000
    """About 60 MB; beyond it everything is forgotten and learned anew."""
    LONGEST_CHUNK = 128

    def __init__(self, plain: PlainEncoder, dtype: npt.DTypeLike) -> None:
        self._plain = plain
        self._dtype = np.dtype(dtype)
        self._known: dict[str, bytes] = {}

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        split = [CHUNK.findall(text) for text in texts]
        known = self._known
        if len(known) > self.MOST_CHUNKS:
            known.clear()
        missing = list(set(itertools.chain.from_iterable(split)).difference(known))
        for first in range(0, len(missing), 2048):
            batch = missing[first : first + 2048]
            known.update((chunk, ids.tobytes()) for chunk, ids in zip(batch, self._plain.encode(batch), strict=True))
        result: list[Ids] = []
        for chunks in split:
            joined = b"".join(map(known.__getitem__, chunks))
            result.append(np.frombuffer(joined, dtype=self._dtype))
        for chunk in missing:
            if len(chunk) > self.LONGEST_CHUNK:  # seldom seen again, and only short ones bound the memory
                del known[chunk]
        return result
