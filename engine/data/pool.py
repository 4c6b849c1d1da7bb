"""Several preparation processes at work on a list of tasks."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from engine.contract.errors import DataError
from engine.data.worker import Answer, Failed, Step, Task


class DiskFullError(DataError):
    """A file could not grow."""


class Pool:
    """Runs tasks in up to ``workers`` processes; a context manager that leaves none behind.

    The processes share the cores: where there are fewer tasks than cores, each may use several threads.
    """

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        self._tasks = list(enumerate(tasks))
        self._tasks.reverse()
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._open = len(tasks)
        count = max(1, min(workers, len(tasks)))
        threads = max(1, workers // count)
        environment = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
            "RAYON_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": "1",
        }
        for _ in range(count if tasks else 0):
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "engine.data.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
            )

    def __enter__(self) -> Pool:
        for process in self._processes:
            threading.Thread(target=self._serve, args=(process,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._tasks.clear()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def cancel(self, numbers: Iterable[int]) -> None:
        """Forget those of these tasks that are not begun."""
        needless = frozenset(numbers)
        with self._lock:
            kept = [task for task in self._tasks if task[0] not in needless]
            self._open -= len(self._tasks) - len(kept)
            self._tasks = kept

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """``(task number, answer)`` as they come, until every task is done.

        Raises DataError for the first task that failed, DiskFullError where that is why, and RuntimeError for a
        defect.
        """
        while self._open:
            number, answer = self._answers.get()
            if isinstance(answer, Failed):
                if answer.disk_full:
                    raise DiskFullError("The disk is full", answer.message)
                if not answer.foreseen:
                    raise RuntimeError(answer.message)
                raise DataError(answer.title, answer.message, answer.hint)
            if not isinstance(answer, Step):
                with self._lock:
                    self._open -= 1
            yield number, answer

    def _serve(self, process: subprocess.Popen[bytes]) -> None:
        """Feed one process, in a thread of its own."""
        decoder = msgspec.json.Decoder(Answer)
        assert process.stdin is not None
        assert process.stdout is not None
        while True:
            with self._lock:
                if not self._tasks:
                    return
                number, task = self._tasks.pop()
            try:
                process.stdin.write(msgspec.json.encode(task) + b"\n")
                process.stdin.flush()
                while True:
                    line = process.stdout.readline()
                    if not line:
                        self._answers.put((number, _died(process.wait())))
                        return
                    answer: Answer = decoder.decode(line)
                    self._answers.put((number, answer))
                    if not isinstance(answer, Step):
                        break
            except (OSError, ValueError):  # its pipe is closed: it died, or we are leaving
                self._answers.put((number, _died(process.wait())))
                return


def _died(code: int) -> Failed:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return Failed(
        title="A process that prepares the data died",
        message=f"it {how}",
        hint="signal 9 usually means that memory ran out; what it finished is kept: start again to go on",
    )
