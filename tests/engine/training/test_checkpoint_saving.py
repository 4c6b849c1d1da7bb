"""Checkpoints while they are written: beside the training, by several ranks and hosts, on disks that fill up."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from torch import distributed

from engine.contract.rundir import RunDirectory, complete_checkpoints
from engine.contract.spec import OptimSpec
from engine.training import checkpoint_folder, checkpoint_storage
from engine.training.checkpoint import find_sound, load_checkpoint, read_manifest, verify_checkpoint
from engine.training.checkpointer import Checkpointer, Failed, Saved
from engine.training.optimiser import build_optimiser
from engine.training.retention import clear_leftovers
from tests.engine.processes import PRELOADED, run_ranks
from tests.engine.training.sharded import (
    POSITION,
    SHAPE,
    axes,
    content,
    fully_sharded,
    held,
    known_optimiser,
    split,
    whole_model,
)

LARGE = replace(SHAPE, vocabulary=40_000, hidden=64)
"""Enough to write that a disk can be full in the middle of it."""


def save(checkpointer: Checkpointer, parts, optimiser, step: int) -> Saved | Failed:
    checkpointer.begin(parts, optimiser, content(), replace(POSITION, step=step))
    (result,) = checkpointer.wait()
    return result


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return RunDirectory(folder)


def test_training_goes_on_at_once_and_the_checkpoint_has_the_values_of_before(run):
    model = whole_model(LARGE)
    optimiser = known_optimiser([model])
    before = {name: tensor.clone() for name, tensor in held([model], optimiser)}
    checkpointer = Checkpointer(run)
    for step in (1, 2):  # the second time into the memory of the first
        checkpointer.begin([model], optimiser, content(shape=LARGE), replace(POSITION, step=step))
        for _, tensor in held([model], optimiser):
            tensor.fill_(-1)
        (result,) = checkpointer.wait()
        assert isinstance(result, Saved)
        files = load_file(run.checkpoints / f"step-{step}" / "model.safetensors")
        files |= load_file(run.checkpoints / f"step-{step}" / "optimiser.safetensors")
        assert files.keys() == before.keys()
        assert all(torch.equal(before[name], tensor) for name, tensor in files.items())
        for name, tensor in held([model], optimiser):
            tensor.copy_(before[name])


def test_what_lies_on_the_disk(run):
    model = whole_model(dtype=torch.bfloat16)
    result = save(Checkpointer(run), [model], known_optimiser([model]), 7)
    folder = run.checkpoints / "step-7"
    assert isinstance(result, Saved)
    names = {"model.safetensors", "optimiser.safetensors", "tensors.json", "training.json", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-7"]
    manifest = verify_checkpoint(folder)
    assert manifest.schema == 2
    assert manifest.files.keys() == names - {"manifest.json"}
    assert result.bytes == sum((folder / name).stat().st_size for name in manifest.files)
    whole = load_file(folder / "model.safetensors")
    assert all(torch.equal(whole[name], tensor) for name, tensor in model.named_parameters())
    assert whole["embedding.weight"].dtype == torch.bfloat16


def test_a_second_checkpoint_of_a_step_replaces_the_first(run):
    model = whole_model()
    optimiser = known_optimiser([model])
    checkpointer = Checkpointer(run)
    save(checkpointer, [model], optimiser, 7)
    with torch.no_grad():
        model.embedding.weight.fill_(3)
    assert isinstance(save(checkpointer, [model], optimiser, 7), Saved)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-7"]
    assert load_file(run.checkpoints / "step-7" / "model.safetensors")["embedding.weight"].eq(3).all()


def test_a_checkpoint_that_is_begun_waits_for_the_one_before(run):
    model = whole_model()
    optimiser = known_optimiser([model])
    checkpointer = Checkpointer(run)
    assert checkpointer.poll() == checkpointer.wait() == []
    for step in (1, 2, 3):
        checkpointer.begin([model], optimiser, content(), replace(POSITION, step=step))
    assert [result.step for result in checkpointer.wait()] == [1, 2, 3]
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-1", "step-2", "step-3"]


def sharded_after_a_forward_pass(folder: Path) -> None:
    """The root of a fully sharded network stays whole after a forward pass without a backward one."""
    model = whole_model()
    fully_sharded(model, axes(shard=2))
    optimiser = known_optimiser([model])
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.int64))
    checkpointer = Checkpointer(RunDirectory(folder))
    checkpointer.begin([model], optimiser, content(), POSITION)
    (result,) = checkpointer.wait()
    assert isinstance(result, Saved)
    if distributed.get_rank() == 0:
        whole = whole_model()
        names = {f"{name}:{what}" for name, _ in whole.named_parameters() for what in ("step", "exp_avg", "exp_avg_sq")}
        assert {name for name, _ in held([model], optimiser)} == names | {name for name, _ in whole.named_parameters()}
        with torch.no_grad():
            whole.embedding.weight.fill_(-1)
        load_checkpoint(folder / "checkpoints" / "step-7", whole, content())
        assert torch.equal(whole.embedding.weight, whole_model().embedding.weight)


def test_evaluating_before_it_changes_nothing(run):
    run_ranks(2, sharded_after_a_forward_pass, run.path)


def memory_comes_later(folder: Path) -> None:
    model = whole_model()
    fully_sharded(model, axes(shard=2))
    fresh = build_optimiser([model], OptimSpec(), torch.device("cpu"))
    checkpointer = Checkpointer(RunDirectory(folder))
    assert isinstance(save(checkpointer, [model], fresh, 0), Saved)
    trained = known_optimiser([model])
    assert isinstance(save(checkpointer, [model], trained, 1), Saved)
    checkpointer.load("step-1", [model], content(), fresh)
    assert len(held([model], fresh)) == len(held([model], trained)) > len(held([model]))
    checkpointer.load("step-0", [model], content(), trained)
    assert not trained.state


def test_an_optimiser_without_memory_is_one_again(run):
    run_ranks(2, memory_comes_later, run.path)


def disk_of_one_is_full(folder: Path, full: int) -> str:
    parts = split("fsdp2", whole_model(LARGE))
    optimiser = known_optimiser(parts)
    checkpointer = Checkpointer(RunDirectory(folder))
    assert isinstance(save(checkpointer, parts, optimiser, 1), Saved)
    if distributed.get_rank() == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    failed = save(checkpointer, parts, optimiser, 2)
    if distributed.get_rank() == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    distributed.barrier()
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-1"}
    distributed.barrier()
    assert isinstance(save(checkpointer, parts, optimiser, 3), Saved)
    assert isinstance(failed, Failed)
    return str(failed.error)


@pytest.mark.parametrize("full", [0, 1])
def test_where_one_disk_is_full_nobody_has_a_checkpoint_and_training_goes_on(run, full):
    for told in run_ranks(2, disk_of_one_is_full, run.path, full):
        assert told.startswith(f"The checkpoint of step 2 was not written: rank {full}: [Errno 27] File too large")
        assert "earlier checkpoints are kept" in told
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-1", "step-3"]


def one_is_killed(folder: Path, killed: int) -> str:
    parts = split("fsdp2", whole_model(LARGE))
    optimiser = known_optimiser(parts)
    checkpointer = Checkpointer(RunDirectory(folder))
    assert isinstance(save(checkpointer, parts, optimiser, 1), Saved)
    if distributed.get_rank() == killed:  # by the kernel, in the middle of writing its file
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_500_000, resource.RLIM_INFINITY))
    failed = save(checkpointer, parts, optimiser, 2)
    assert isinstance(failed, Failed)
    return str(failed.error)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_leaves_the_checkpoint_before_and_no_half_one(run, killed):
    begin = time.monotonic()
    told = run_ranks(2, one_is_killed, run.path, killed, may_die={killed})
    assert time.monotonic() - begin < 60
    assert told[killed] is None
    assert told[1 - killed].startswith("The checkpoint of step 2 was not written")
    (run.checkpoints / ".step-probe-0123abcd").touch()  # as a rank leaves it that is killed while it looks
    found, problems = find_sound(run)
    assert found is not None
    assert (found.name, problems) == ("step-1", [])
    clear_leftovers(run)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-1"]


def hosts_apart(folders: list[Path]) -> list[str]:
    checkpoint_storage.PIECE_BYTES = checkpoint_folder.PIECE_BYTES = 1000  # so that files go in several pieces
    run = RunDirectory(folders[distributed.get_rank()])
    parts = split("fsdp4", whole_model())
    optimiser = known_optimiser(parts)
    before = [tensor.clone() for _, tensor in held(parts, optimiser)]
    checkpointer = Checkpointer(run)
    assert isinstance(save(checkpointer, parts, optimiser, 7), Saved)
    distributed.barrier()
    left = sorted(path.name for path in run.checkpoints.iterdir())
    distributed.barrier()
    for _, tensor in held(parts, optimiser):
        tensor.fill_(-1)
    checkpointer.load("step-7", parts, content(), optimiser)
    assert all(torch.equal(was, now) for was, (_, now) in zip(before, held(parts, optimiser), strict=True))
    distributed.barrier()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == left
    return left


def test_hosts_without_a_shared_file_system_gather_at_the_first_and_read_from_it(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    left = run_ranks(4, hosts_apart, [run.path, run.path, other, other])
    assert left == [["step-7"], ["step-7"], [], []]
    names = {f"{group}-{rank}.safetensors" for group in ("model", "optimiser") for rank in range(4)}
    assert names < verify_checkpoint(run.checkpoints / "step-7").files.keys()


def first_host_is_full(folders: list[Path]) -> str:
    """The second rank has more layers than the first, whose disk has room for its own part alone."""
    rank = distributed.get_rank()
    run = RunDirectory(folders[rank])
    parts = split("pp2", whole_model(replace(LARGE, tied_embeddings=False)))
    optimiser = build_optimiser(parts, OptimSpec(), torch.device("cpu"))
    checkpointer = Checkpointer(run)
    assert isinstance(save(checkpointer, parts, optimiser, 1), Saved)
    if rank == 0:
        room = read_manifest(run.checkpoints / "step-1").files["model-0.safetensors"].bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    failed = save(checkpointer, parts, optimiser, 2)
    assert isinstance(failed, Failed)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert isinstance(save(checkpointer, parts, optimiser, 3), Saved)
    return str(failed.error)


def test_a_host_that_sends_to_a_full_disk_is_told_to_stop(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for told in run_ranks(2, first_host_is_full, [run.path, other]):
        assert "rank 0: [Errno 27] File too large" in told
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-1", "step-3"]


def end_while_saving(rank: int, port: int, folder: Path) -> None:
    store = distributed.TCPStore("127.0.0.1", port, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = whole_model()
    checkpointer = Checkpointer(RunDirectory(folder))
    if rank == 1:
        checkpointer._share([])
        signal.pause()  # it never comes to write its part
    checkpointer.begin([model], known_optimiser([model]), content(), POSITION)
    raise SystemExit(3)


def test_a_process_that_ends_does_not_wait_for_a_checkpoint(run):
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ranks = [context.Process(target=end_while_saving, args=(rank, store.port, run.path)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        ranks[0].join(60)
        assert ranks[0].exitcode == 3
    finally:
        for process in ranks:
            process.kill()
            process.join()
    assert complete_checkpoints(run) == []
