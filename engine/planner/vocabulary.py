"""How many token ids a tokenizer will have, as far as that is known before it is made."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from engine.contract.spec import TokenizerSpec

BYTES = 257
"""256 bytes and the end of a document."""
CHARACTERS = 256
"""Stand-in for the number of different characters of a text that nobody has read yet."""


class _AddedToken(msgspec.Struct):
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []


def expected_vocabulary(tokenizer: TokenizerSpec) -> tuple[int, str | None]:
    """``(size, assumption)``: the assumption in words where the size is not certain, else None."""
    if tokenizer.kind == "bytes":
        return BYTES, None
    if tokenizer.kind == "characters":
        return CHARACTERS, f"a vocabulary of {CHARACTERS} characters, until the text has been read"
    if tokenizer.kind == "file":
        size = vocabulary_of_file(Path(tokenizer.file or "").expanduser())
        if size is None:
            return tokenizer.vocabulary, f"a vocabulary of {tokenizer.vocabulary}: the tokenizer file cannot be read"
        return size, None
    return tokenizer.vocabulary, None


def vocabulary_of_file(path: Path) -> int | None:
    """Entries of a ``tokenizer.json``, added ones included; None if it is not one that can be read."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return _count(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _count(path: Path, modified: int, size: int) -> int | None:
    """Remembered for each state of the file: a large vocabulary takes some 50 ms to read."""
    del modified, size
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
    except (OSError, msgspec.MsgspecError):
        return None
    entries = found.model.vocab
    names = set(entries) if isinstance(entries, dict) else {name for name, _ in entries}
    return len(names.union(token.content for token in found.added_tokens))
