"""One shard becomes one part: its tokens, and for each document their number, its bytes and its hash.

A part is complete when its ``.json`` is there. Everything is written under names of this process first and renamed
last, so that what a killed process leaves is never taken for a part, nor are two that write the same part in each
other's way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from engine.contract.records import read_record
from engine.data.encoding import Encoder
from engine.data.shards import Reading, Shard
from engine.data.sources import read_shard
from engine.data.tokenizer import TokenizerFacts

DOCUMENT = np.dtype([("tokens", "<u8"), ("bytes", "<u8"), ("hash", "<u8")])
"""What is kept of a document. The hash is of its text: equal texts go to the same side of the split."""
BATCH_CHARACTERS = 512 << 10
"""Encoded at a time: about 30 MB inside the library."""
TokenType = np.dtype[np.uint16] | np.dtype[np.uint32]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a part's ``.json`` says."""

    documents: int
    skipped: int
    """Records or files without text."""
    bytes: int
    tokens: int


def part_files(folder: Path, index: int) -> tuple[Path, Path, Path]:
    """Tokens, documents and facts of part ``index``."""
    stem = f"{index:06d}"
    return folder / f"{stem}.tokens", folder / f"{stem}.documents", folder / f"{stem}.json"


def finished_part(folder: Path, index: int, token_bytes: int) -> Part | None:
    """The facts of a part that was completed before; None if it has to be made."""
    tokens, documents, facts = part_files(folder, index)
    try:
        part = read_record(facts, Part)
        sizes = tokens.stat().st_size, documents.stat().st_size
    except OSError:
        return None
    if part is None:
        return None
    return part if sizes == (part.tokens * token_bytes, part.documents * DOCUMENT.itemsize) else None


def pack(
    reading: Reading,
    shard: Shard,
    encoder: Encoder,
    facts: TokenizerFacts,
    folder: Path,
    limit: int | None,
    progress: Callable[[int], None],
) -> Part:
    """Make the part of ``shard`` with at most ``limit`` documents; ``progress`` gets bytes of text as they are done.

    Raises DataError for bad input and OSError where the disk is full; then nothing of the part is left.
    """
    targets = part_files(folder, shard.index)
    aside = [target.with_suffix(f"{target.suffix}.{os.getpid()}") for target in targets]
    try:
        with aside[0].open("wb") as tokens, aside[1].open("wb") as documents:
            part = _write(reading, shard, encoder, facts, limit, progress, tokens, documents)
            for file in (tokens, documents):
                file.flush()
                os.fsync(file.fileno())
        aside[2].write_bytes(msgspec.json.encode(part))
        for source, target in zip(aside, targets, strict=True):
            source.replace(target)
    finally:
        for path in aside:
            path.unlink(missing_ok=True)
    return part


def _write(
    reading: Reading,
    shard: Shard,
    encoder: Encoder,
    facts: TokenizerFacts,
    limit: int | None,
    progress: Callable[[int], None],
    tokens: BinaryIO,
    documents: BinaryIO,
) -> Part:
    counts = {"documents": 0, "bytes": 0, "tokens": 0}
    dtype = token_type(facts.vocabulary)
    end = np.array([] if facts.eos_id is None else [facts.eos_id], dtype=dtype)
    skips = [0]
    for texts in _batches(reading, shard, limit, skips):
        rows = np.empty(len(texts), dtype=DOCUMENT)
        for row, (text, ids) in enumerate(zip(texts, encoder.encode(texts), strict=True)):
            content = text.encode()
            tokens.write(ids.tobytes())
            tokens.write(end.tobytes())
            digest = hashlib.blake2b(content, digest_size=8).digest()
            rows[row] = (len(ids) + len(end), len(content), int.from_bytes(digest, "little"))
        documents.write(rows.tobytes())
        size = int(rows["bytes"].sum())
        counts["documents"] += len(texts)
        counts["bytes"] += size
        counts["tokens"] += int(rows["tokens"].sum())
        progress(size)
    return Part(skipped=skips[0], **counts)


def _batches(reading: Reading, shard: Shard, limit: int | None, skips: list[int]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = taken = 0
    for text in read_shard(reading, shard):
        if text is None:
            skips[0] += 1
            continue
        texts.append(text)
        size += len(text)
        taken += 1
        if size >= BATCH_CHARACTERS or len(texts) >= 4096:
            yield texts
            texts, size = [], 0
        if taken == limit:
            break
    if texts:
        yield texts


def token_type(vocabulary: int) -> TokenType:
    """The narrowest type that holds every id below ``vocabulary``."""
    return np.dtype("<u2") if vocabulary <= 1 << 16 else np.dtype("<u4")
