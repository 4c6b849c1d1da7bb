"""Writing checkpoints beside the training: it waits for the copy off its device, and for nothing else."""

from __future__ import annotations

import functools
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from engine.contract.durable import DISK_FULL
from engine.contract.errors import CheckpointError, TraindeckError
from engine.contract.rundir import CheckpointManifest, FileDigest, RunDirectory
from engine.parallel.dtensors import shard
from engine.training.checkpoint import Content, Position, load_checkpoint, together
from engine.training.checkpoint_copies import HostCopies
from engine.training.checkpoint_folder import complete_folder, fetch_folder, offer_folder
from engine.training.checkpoint_index import MODEL, OPTIMISER, Index
from engine.training.checkpoint_plan import OwnPlanner, offered, share_out, write_items
from engine.training.checkpoint_storage import ShardWriter
from engine.training.checkpoint_transfer import TransferError, leaders
from engine.training.retention import clear_leftovers
from engine.training.tensors import every_model_tensor, every_optimiser_tensor

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: as long as the slowest disk may take for its part."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that is on disk."""

    step: int
    name: str
    bytes: int | None
    """On rank 0."""
    seconds: float
    """From ``begin`` to its place on disk."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A checkpoint that could not be written; earlier ones are untouched."""

    step: int
    error: CheckpointError


class Checkpointer:
    """Saves and loads the checkpoints of a run; on several ranks every method is called by all of them.

    One checkpoint is written at a time, by a thread of its own and over a process group of its own. Where the ranks see
    different folders (hosts without a shared file system), that of rank 0 gets the complete checkpoints.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._group: ProcessGroup | None = None
        self._rank = 0
        self._leaders = [0]
        self._token = uuid.uuid4().hex[:8]
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo", timeout=TIMEOUT)
            self._rank = distributed.get_rank()
            self._meet(self._group)
        self._copies = HostCopies()
        self._offer: list[WriteItem] | None = None
        self._items: list[WriteItem] = []
        self._count = 0
        self._thread: threading.Thread | None = None
        self._results: list[Saved | Failed] = []

    def begin(
        self,
        parts: Sequence[nn.Module],
        optimiser: Optimizer,
        content: Content,
        position: Position,
        validation_loss: float | None = None,
    ) -> None:
        """Copy what this rank has to save off its device, and let it be written as ``checkpoints/step-<n>``.

        Training may change everything when this returns. A checkpoint that is still being written is waited for.
        """
        started = time.perf_counter()
        self._join()
        tensors = offered({MODEL: every_model_tensor(parts), OPTIMISER: every_optimiser_tensor(parts, optimiser)})
        items = self._share(write_items(tensors))
        problem: Exception | None = None
        try:
            self._copies.take({item.index.fqn: shard(tensors[item.index.fqn]) for item in items})
        except RuntimeError as error:  # no memory: the thread tells it, so that all ranks give up this checkpoint
            problem = error
        self._count += 1
        work = functools.partial(
            self._write, items, content, position, validation_loss, started=started, problem=problem
        )
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def poll(self) -> list[Saved | Failed]:
        """What has been finished since the last call; another rank may learn it a little earlier or later."""
        if self._thread is not None and not self._thread.is_alive():
            self._join()
        results, self._results = self._results, []
        return results

    def wait(self) -> list[Saved | Failed]:
        """What has been finished since the last call, once nothing is being written any more."""
        self._join()
        return self.poll()

    def load(
        self, name: str, parts: Sequence[nn.Module], content: Content, optimiser: Optimizer | None = None
    ) -> CheckpointManifest:
        """Restore what this rank holds from checkpoint ``name``, whatever layout wrote it; verifies no digests.

        Hosts that lack it receive it from that of rank 0 for as long as this takes. Raises CheckpointError as
        :func:`load_checkpoint` does.
        """
        self._join()
        with self._at_hand(name) as folder:
            return load_checkpoint(folder, parts, content, optimiser, self._group)

    def _meet(self, group: ProcessGroup) -> None:
        """Agree on a word that is new to the file system, and learn who sees whose folder."""
        words = [self._token]
        distributed.broadcast_object_list(words, src=0, group=group)
        (self._token,) = words
        with suppress(OSError):  # whoever cannot have the folder fails, and says so, when something is to be saved
            self._run.checkpoints.mkdir(mode=0o700, exist_ok=True)
        self._leaders = leaders(self._run.checkpoints, f".step-probe-{self._token}", group)
        if self._rank != 0 and self._leaders[self._rank] == self._rank:
            clear_leftovers(self._run)  # of copies that this host received; rank 0 sees to its own

    def _share(self, offer: list[WriteItem]) -> list[WriteItem]:
        """What this rank writes of what it has. Talks it over with the others only when something has changed."""
        if self._group is None:
            return offer
        changed = torch.tensor(int(offer != self._offer))
        distributed.all_reduce(changed, op=distributed.ReduceOp.MAX, group=self._group)
        if changed:
            offers: list[list[WriteItem]] = [[] for _ in self._leaders]
            distributed.all_gather_object(offers, offer, group=self._group)
            self._offer, self._items = offer, share_out(offers)[self._rank]
        return self._items

    def _write(
        self,
        items: list[WriteItem],
        content: Content,
        position: Position,
        validation_loss: float | None,
        *,
        started: float,
        problem: Exception | None,
    ) -> None:
        """The work of the thread; leaves its result."""
        name = f"step-{position.step}"
        aside = self._run.checkpoints / f".{name}.partial-{self._token}-{self._count}"
        size: int | None = None

        def finish(index: Index, files: Mapping[str, FileDigest]) -> None:
            nonlocal size
            manifest = complete_folder(aside, name, index, files, content, position, validation_loss)
            size = sum(file.bytes for file in manifest.files.values())

        def ready() -> None:
            if problem is not None:
                raise problem
            self._copies.wait()

        apart = [rank for rank, leader in enumerate(self._leaders) if leader != 0]
        try:
            save(
                {},
                storage_writer=ShardWriter(aside, apart, self._group, finish),
                planner=OwnPlanner(items, self._copies.tensors, ready),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except (Exception, CheckpointException) as error:
            if self._rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            self._results.append(Failed(step=position.step, error=self._explain(position.step, error)))
        else:
            seconds = time.perf_counter() - started
            self._results.append(Saved(step=position.step, name=name, bytes=size, seconds=seconds))

    def _explain(self, step: int, error: BaseException) -> CheckpointError:
        """``error`` in words for a person; of several ranks that failed, what the first cause was."""
        place = ""
        if isinstance(error, CheckpointException):
            # A rank that was only stopped because of another one has nothing to say.
            causes = sorted(error.failures.items(), key=lambda failure: isinstance(failure[1][0], TransferError))
            rank, (error, _) = causes[0]
            place = "" if self._group is None else f"rank {rank}: "
        told = str(error).partition("\n")[0]
        if not isinstance(error, OSError | TraindeckError):
            told = f"{type(error).__name__}: {told}"
        hint = "Earlier checkpoints are kept"
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            hint = f"Make room on the disk of {self._run.checkpoints}; earlier checkpoints are kept"
        return CheckpointError(f"The checkpoint of step {step} was not written", place + told, hint)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def _at_hand(self, name: str) -> Iterator[Path]:
        """The folder of checkpoint ``name`` as this rank sees it, or a copy on a host that lacks it."""
        original = self._run.checkpoints / name
        others = sorted({leader for leader in self._leaders if leader != 0})
        if self._group is None or not others:
            yield original
            return
        copy = self._run.checkpoints / f".{name}.received-{self._token}"
        with together(self._group):
            if self._rank == 0:
                offer_folder(original, others, self._group)
            else:
                fetch_folder(copy, self._group, to_keep=self._rank in others)
        try:
            yield original if self._leaders[self._rank] == 0 else copy
        finally:
            if self._rank in others:
                shutil.rmtree(copy, ignore_errors=True)
