"""The bounded part of the text that a tokenizer is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.contract.events import Event, Progress
from engine.contract.spec import TokenizerKind
from engine.data.pool import Pool
from engine.data.sources import Source, read_shard
from engine.data.text import LARGEST_PIECE
from engine.data.worker import Alphabet, AlphabetTask

SAMPLE_CHARACTERS: dict[TokenizerKind, int] = {"bpe": 10_000_000, "wordpiece": 6_000_000, "unigram": 4_000_000}
"""Enough for the vocabularies that are trained here: the merges of a corpus settle long before."""
_SHARDS = 64


def sample_texts(source: Source, kind: TokenizerKind, limit: int | None) -> Iterator[str]:
    """Texts of about ``SAMPLE_CHARACTERS`` in all, from the beginnings of shards that are spread over the source.

    With ``limit`` only the first documents are read, as they alone will be trained on.
    """
    left = SAMPLE_CHARACTERS[kind]
    if limit is None:
        count = min(_SHARDS, len(source.shards))
        chosen = [source.shards[number * len(source.shards) // count] for number in range(count)]
    else:
        chosen = list(source.shards)
    taken = 0
    for number, shard in enumerate(chosen):
        quota = left if limit is not None else left // (len(chosen) - number)
        for text in read_shard(source.reading, shard):
            if quota <= 0 or taken == limit:
                break
            if text is None:
                continue
            taken += 1
            kept = text[: min(quota, 16 * LARGEST_PIECE)]  # one huge document is not the whole sample
            quota -= len(kept)
            left -= len(kept)
            yield kept
        if left <= 0 or taken == limit:
            return


def alphabet(source: Source, limit: int | None, workers: int, report: Callable[[Event], None]) -> str:
    """Every character of the text, sorted; of the first ``limit`` documents only, where there is a limit."""
    found: set[str] = set()
    if limit is not None:
        documents = (text for shard in source.shards for text in read_shard(source.reading, shard) if text is not None)
        for text, _ in zip(documents, range(limit), strict=False):
            found.update(text)
        return "".join(sorted(found))
    tasks = [AlphabetTask(reading=source.reading, shard=shard) for shard in source.shards]
    done = 0.0
    with Pool(tasks, workers) as pool:
        for number, answer in pool.answers():
            if isinstance(answer, Alphabet):
                found.update(answer.characters)
                done += tasks[number].shard.bytes
                report(Progress(what="collecting characters", done=done, total=float(source.bytes), unit="bytes"))
    return "".join(sorted(found))
