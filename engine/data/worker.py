"""A preparation process: takes tasks as JSON lines on stdin, answers on stdout, ends when stdin does.

A process of its own, and not ``multiprocessing``, so that nothing is forked under threads and nothing depends on
what the parent's main module is. Run as ``python -P -m engine.data.worker`` by :mod:`engine.data.pool`.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from pathlib import Path

import msgspec

from engine.contract.durable import DISK_FULL
from engine.contract.errors import TraindeckError
from engine.contract.spec import TokenizerKind
from engine.data.encoding import Encoder, encoder_for
from engine.data.pack import Part, pack, token_type
from engine.data.shards import Reading, Shard
from engine.data.sources import read_shard
from engine.data.tokenizer import TokenizerFacts, facts_of, load_tokenizer


class PackTask(msgspec.Struct, frozen=True, kw_only=True, tag="pack"):
    """Make the part of a shard."""

    reading: Reading
    shard: Shard
    folder: str
    tokenizer: str
    kind: TokenizerKind
    limit: int | None


class AlphabetTask(msgspec.Struct, frozen=True, kw_only=True, tag="alphabet"):
    """Collect the different characters of a shard."""

    reading: Reading
    shard: Shard


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Bytes of text done since the last one."""

    bytes: int


class Packed(msgspec.Struct, frozen=True, kw_only=True, tag="packed"):
    """The part is complete."""

    part: Part


class Alphabet(msgspec.Struct, frozen=True, kw_only=True, tag="alphabet"):
    """The different characters, sorted."""

    characters: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The task could not be done, and why."""

    title: str
    message: str
    hint: str = ""
    foreseen: bool = True
    """False: an exception that is a defect; ``message`` is its traceback."""
    disk_full: bool = False


Task = PackTask | AlphabetTask
Answer = Step | Packed | Alphabet | Failed


class Worker:
    """Does one task after another, keeping the tokenizer between them."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Encoder, TokenizerFacts] | None = None
        self._answers = sys.stdout.buffer

    def answer(self, answer: Answer) -> None:
        self._answers.write(msgspec.json.encode(answer) + b"\n")
        self._answers.flush()

    def do(self, task: Task) -> None:
        """Do ``task`` and answer; only what ends the process is raised."""
        try:
            self.answer(self._pack(task) if isinstance(task, PackTask) else self._alphabet(task))
        except TraindeckError as error:
            self.answer(Failed(title=error.title, message=error.message, hint=error.hint))
        except OSError as error:
            full = error.errno in DISK_FULL
            self.answer(
                Failed(title="A file cannot be read or written", message=str(error), disk_full=full, foreseen=True)
            )
        except Exception:  # whatever it is, the parent has to know
            self.answer(Failed(title="A defect in preparing data", message=traceback.format_exc(), foreseen=False))

    def _pack(self, task: PackTask) -> Packed:
        if self._loaded is None or self._loaded[0] != task.tokenizer:
            tokenizer = load_tokenizer(Path(task.tokenizer))
            facts = facts_of(tokenizer)
            self._loaded = task.tokenizer, encoder_for(task.kind, tokenizer, token_type(facts.vocabulary)), facts
        _, encoder, facts = self._loaded
        part = pack(
            task.reading,
            task.shard,
            encoder,
            facts,
            Path(task.folder),
            task.limit,
            lambda size: self.answer(Step(bytes=size)),
        )
        return Packed(part=part)

    def _alphabet(self, task: AlphabetTask) -> Alphabet:
        characters: set[str] = set()
        for text in read_shard(task.reading, task.shard):
            characters.update(text or "")
        return Alphabet(characters="".join(sorted(characters)))


def main() -> None:
    """Work until the parent closes our input, or is gone."""
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    decoder = msgspec.json.Decoder(Task)

    def listen() -> None:
        for line in sys.stdin.buffer:
            tasks.put(decoder.decode(line))
        os._exit(0)  # the parent is done with us or dead: a half-made part is not a part

    threading.Thread(target=listen, daemon=True).start()
    worker = Worker()
    while True:
        worker.do(tasks.get())


if __name__ == "__main__":
    main()
