"""Naming prepared data by the content of its sources and by every choice that decides its tokens."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from engine.contract.durable import write_durably
from engine.contract.records import read_record
from engine.contract.spec import RunSpec
from engine.data.prepared import FORMAT
from engine.data.shards import shard_bytes
from engine.data.sources import Source

_PIECE = 32 << 20
_REMEMBERED_FROM = 4 << 20
"""Smaller files are hashed again each time: that takes less than remembering them."""
_SETTLED_SECONDS = 3.0
"""A file changed more recently could change again within one tick of its clock."""


class _Memo(msgspec.Struct, frozen=True):
    size: int
    modified_ns: int
    digest: str


def fingerprint(source: Source, spec: RunSpec, cache: Path, workers: int) -> str:
    """32 hexadecimal digits; equal for equal content, wherever it lies and whatever its name."""
    data, tokenizer = spec.data, spec.tokenizer
    trained = tokenizer.kind in ("bpe", "wordpiece", "unigram")
    given = Path(tokenizer.file).expanduser() if tokenizer.kind == "file" and tokenizer.file else None
    decides = {
        "format": FORMAT,
        "reading": source.reading,
        "shards": shard_bytes(source.bytes),
        "tables": [path.suffix.lower() for path in source.files if source.reading.kind == "csv"],
        "max_documents": data.max_documents,
        "validation_fraction": data.validation_fraction,
        "tokenizer": tokenizer.kind,
        "vocabulary": tokenizer.vocabulary if trained else None,
        "tokenizer_file": _digest(given) if given is not None and given.is_file() else None,
        "files": digests(source.files, cache, workers),
    }
    return hashlib.blake2b(msgspec.json.encode(decides, order="sorted"), digest_size=16).hexdigest()


def digests(files: Sequence[Path], cache: Path, workers: int) -> list[str]:
    """The content hash of each file; large ones that have not changed since are remembered in ``cache``."""
    memo_file = cache / "hashes.json"
    memo = _read_memo(memo_file)
    found: dict[str, _Memo] = {}
    small: list[Path] = []
    large: list[Path] = []
    for path in files:
        (large if path.stat().st_size >= _REMEMBERED_FROM else small).append(path)
    results: dict[Path, str] = {}
    with ThreadPoolExecutor(max(1, workers)) as threads:
        results.update(zip(small, threads.map(_digest, small), strict=True))
        for path in large:
            before = path.stat()
            known = memo.get(str(path))
            if known is not None and (known.size, known.modified_ns) == (before.st_size, before.st_mtime_ns):
                results[path] = known.digest
                continue
            pieces = range(0, before.st_size, _PIECE)
            parts = threads.map(lambda start, path=path: _digest(path, start, _PIECE), pieces)
            results[path] = hashlib.blake2b("".join(parts).encode(), digest_size=16).hexdigest()
            if time.time() - before.st_mtime > _SETTLED_SECONDS:
                found[str(path)] = _Memo(before.st_size, before.st_mtime_ns, results[path])
    if found:
        write_durably(memo_file, msgspec.json.encode({**memo, **found}))
    return [results[path] for path in files]


def _digest(path: Path, start: int = 0, size: int | None = None) -> str:
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        file.seek(start)
        left = size
        while left is None or left > 0:
            block = file.read(1 << 20 if left is None else min(1 << 20, left))
            if not block:
                break
            state.update(block)
            left = None if left is None else left - len(block)
    return state.hexdigest()


def _read_memo(path: Path) -> dict[str, _Memo]:
    return read_record(path, dict[str, _Memo]) or {}  # unreadable, it only costs the hashing again
