"""Real ranks in real processes: a function runs on each, under one rendezvous, within a time.

The processes are forked from a server that has imported torch once, so that a group of four starts in well under a
second. Each sees the environment that torchrun would give it, with the rendezvous store in the test's own process:
``init_process_group("gloo")`` and Fabric both find it, and the death of rank 0 takes nothing away from the others.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from torch.distributed import TCPStore

GRACE_SECONDS = 3.0
"""How long the other ranks have to end by themselves once one has failed: they would wait for it for ever."""
PRELOADED = ("torch", "torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch.distributed.checkpoint")


class Rank(NamedTuple):
    """A process, and the end of the pipe on which it reports."""

    process: BaseProcess
    report: Connection


class RanksFailedError(AssertionError):
    """Some ranks raised, died or did not end in time; says which, with their tracebacks."""


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 120.0,
    group: bool = True,
    may_die: Collection[int] = (),
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """``function(*args)`` on every rank; what each returned, by rank.

    ``function`` stands at the top of a test module and takes and returns what a process can be sent. It finds its
    number in ``RANK``, and a gloo process group set up unless ``group`` is False. The result of a rank in ``may_die``
    that was killed is None. Raises RanksFailedError, and leaves no process behind, whatever happens.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ranks: list[Rank] = []
    try:
        for rank in range(world_size):
            reader, writer = context.Pipe(duplex=False)
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=_work, args=(writer, own, group, function, args), daemon=True)
            process.start()
            writer.close()
            ranks.append(Rank(process, reader))
        results, problems = _collect(ranks, time.monotonic() + timeout, may_die)
    finally:
        for process, reader in ranks:
            process.kill()
            process.join()
            reader.close()
    if problems:
        raise RanksFailedError("\n\n".join(problems[rank] for rank in sorted(problems)))
    return [results.get(rank) for rank in range(world_size)]


def _collect(ranks: list[Rank], deadline: float, may_die: Collection[int]) -> tuple[dict[int, Any], dict[int, str]]:
    """What each rank returned, and what went wrong, by rank."""
    results: dict[int, Any] = {}
    problems: dict[int, str] = {}
    waiting = {reader: rank for rank, (_, reader) in enumerate(ranks)}
    while waiting:
        ready = wait(list(waiting), max(deadline - time.monotonic(), 0.0))
        if not ready:
            for rank in waiting.values():
                problems.setdefault(rank, f"rank {rank} did not end in time")
            break
        for reader in ready:
            assert isinstance(reader, Connection)
            rank = waiting.pop(reader)
            try:
                succeeded, value = reader.recv()
            except EOFError:  # it died without a word
                ranks[rank].process.join(GRACE_SECONDS)
                if rank not in may_die:
                    problems[rank] = f"rank {rank} died: exit code {ranks[rank].process.exitcode}"
            else:
                if succeeded:
                    results[rank] = value
                else:
                    problems[rank] = f"rank {rank}: {value}"
        if problems:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    return results, problems


def _work(
    report: Connection,
    environment: dict[str, str],
    group: bool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """One rank: what ``function`` returns or raises goes to the test."""
    import torch
    from torch import distributed

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        if group:
            distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
        value = function(*args)
        report.send((True, value))
    except BaseException:
        report.send((False, traceback.format_exc()))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
