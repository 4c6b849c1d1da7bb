"""Checkpoints that are read: of earlier and later forms, of other models, damaged, of other number formats."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import asdict, replace
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from engine.contract.errors import CheckpointError
from engine.contract.rundir import RunDirectory
from engine.training.checkpoint import (
    NewerCheckpointError,
    digest_file,
    find_sound,
    load_checkpoint,
    read_manifest,
    verify_checkpoint,
)
from engine.training.checkpoint_boxes import chunk_bounds, cut
from engine.training.checkpointer import Checkpointer, Failed, Saved
from engine.training.retention import set_aside
from tests.engine.processes import RanksFailedError, run_ranks
from tests.engine.training.sharded import (
    POSITION,
    SHAPE,
    content,
    held,
    known_optimiser,
    split,
    whole_model,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return RunDirectory(folder)


def save(run: RunDirectory, model, kind: str = "adamw", step: int = 7, shape=SHAPE) -> Path:
    checkpointer = Checkpointer(run)
    parts = [model]
    checkpointer.begin(parts, known_optimiser(parts, kind), content(kind, shape), replace(POSITION, step=step))
    (result,) = checkpointer.wait()
    assert isinstance(result, Saved)
    return run.checkpoints / result.name


def save_as_schema_1(run: RunDirectory) -> Path:
    """As Traindeck did before there were shards."""
    folder = run.checkpoints / "step-7"
    folder.mkdir(parents=True)
    model = whole_model()
    values = dict(held([model], known_optimiser([model])))
    save_file({name: value for name, value in values.items() if ":" not in name}, folder / "model.safetensors")
    save_file({name: value for name, value in values.items() if ":" in name}, folder / "optimiser.safetensors")
    (folder / "training.json").write_bytes(msgspec.json.encode(content()))
    manifest = {
        "schema": 1, "step": 7, "samples": 56, "tokens": 560, "elapsed_seconds": 1.5, "validation_loss": None,
        "files": {path.name: asdict(digest_file(path)) for path in folder.iterdir()},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def read_into(layout: str, folder: Path) -> None:
    parts = split(layout, whole_model())
    optimiser = known_optimiser(parts)
    before = [(name, tensor.clone()) for name, tensor in held(parts, optimiser)]
    for _, tensor in held(parts, optimiser):
        tensor.fill_(-1)
    Checkpointer(RunDirectory(folder)).load("step-7", parts, content(), optimiser)
    for (name, was), (_, now) in zip(before, held(parts, optimiser), strict=True):
        assert torch.equal(was, now), name


def test_the_form_of_before_is_read_by_one_and_by_many(run):
    folder = save_as_schema_1(run)
    assert verify_checkpoint(folder).step == 7
    run_ranks(1, read_into, "single", run.path, group=False)
    run_ranks(4, read_into, "fsdp2 x tp2", run.path)


def test_a_newer_form_is_said_to_be_one_and_is_not_passed_over(run):
    save(run, whole_model(), step=6)
    folder = save(run, whole_model())
    path = folder / "manifest.json"
    path.write_text(json.dumps({"schema": 3, "step": "in a form that nobody knows yet"}))
    for read in (lambda: verify_checkpoint(folder), lambda: find_sound(run)):
        with pytest.raises(NewerCheckpointError, match="written by a newer Traindeck") as caught:
            read()
        assert "schema 3" in caught.value.message
        assert "Update" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden": 8}, "has hidden = 6, and the spec says 8"),
        ({"layers": 3}, "has layers = 4, and the spec says 3"),
        ({"tied_embeddings": False}, "has tied_embeddings = True, and the spec says False"),
    ],
)
def test_another_model_is_told_by_its_first_field(run, change, told):
    folder = save(run, whole_model())
    shape = replace(SHAPE, **change)
    with pytest.raises(CheckpointError, match="of another model") as caught:
        load_checkpoint(folder, whole_model(shape), content(shape=shape))
    assert told in caught.value.message


def test_another_model_is_told_by_its_first_tensor(run):
    """Where the shapes say the same and the networks differ: a checkpoint that was put together by hand."""
    folder = save(run, whole_model(replace(SHAPE, bias=True, norm="layernorm")))
    with pytest.raises(CheckpointError, match=r"the model has no tensor layers\.0\.attention\.key\.bias"):
        load_checkpoint(folder, whole_model(), content())
    folder = save(run, whole_model(replace(SHAPE, vocabulary=38)))
    with pytest.raises(CheckpointError, match=r"embedding\.weight is \(38, 6\) in the checkpoint and \(37, 6\) in"):
        load_checkpoint(folder, whole_model(), content())
    folder = save(run, whole_model())
    larger = whole_model(replace(SHAPE, bias=True))
    with pytest.raises(CheckpointError, match=r"the checkpoint lacks tensor layers\.0\.attention\.key\.bias"):
        load_checkpoint(folder, larger, content())


def test_another_optimiser_is_told(run):
    folder = save(run, whole_model(), "sgd")
    model = whole_model()
    with pytest.raises(CheckpointError, match="trained with sgd, and the spec says adamw"):
        load_checkpoint(folder, model, content(), known_optimiser([model]))
    with pytest.raises(CheckpointError, match=r"the (optimiser has no|checkpoint lacks) tensor .*weight:"):
        load_checkpoint(folder, model, content("sgd"), known_optimiser([model]))


def test_the_number_format_may_change(run):
    folder = save(run, whole_model(dtype=torch.bfloat16))
    model = whole_model()
    load_checkpoint(folder, model, content(), known_optimiser([model]))
    expected = whole_model(dtype=torch.bfloat16)
    for (name, was), now in zip(expected.named_parameters(), model.parameters(), strict=True):
        assert now.dtype == torch.float32
        assert torch.equal(was.float(), now), name


@pytest.mark.parametrize("name", ["model-1.safetensors", "optimiser-0.safetensors", "tensors.json", "training.json"])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_damaged_or_missing_shard_makes_the_one_before_the_newest(sharded_run, name, how):
    run = sharded_run
    path = run.checkpoints / "step-7" / name
    original = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        found, problems = find_sound(run)
    finally:
        path.write_bytes(original)
    assert found is not None
    assert found.name == "step-6"
    ((folder, error),) = problems
    assert folder.name == "step-7"
    assert error.title == "step-7 is damaged"
    assert error.message.startswith(name)


def save_two(folder: Path) -> None:
    parts = split("fsdp2", whole_model())
    checkpointer = Checkpointer(RunDirectory(folder))
    for step in (6, 7):
        checkpointer.begin(parts, known_optimiser(parts), content(), replace(POSITION, step=step))
    assert not any(isinstance(result, Failed) for result in checkpointer.wait())


@pytest.fixture(scope="module")
def sharded_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(2, save_two, folder)
    return RunDirectory(folder)


def test_an_index_that_leaves_something_out_is_damage(sharded_run, tmp_path):
    """Digests guard against disks; this is for what was put together by hand."""
    folder = sharded_run.checkpoints / "step-7"
    copy = tmp_path / "step-7"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    index = json.loads((copy / "tensors.json").read_text())
    index["model"]["embedding.weight"]["pieces"].pop()
    (copy / "tensors.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"only a part of tensor embedding\.weight"):
        load_checkpoint(copy, whole_model(), content())
    index["model"]["embedding.weight"]["pieces"][0]["file"] = "../../elsewhere.safetensors"
    (copy / "tensors.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"embedding\.weight is in '\.\./\.\./elsewhere"):
        load_checkpoint(copy, whole_model(), content())
    index["model"]["embedding.weight"]["dtype"] = "C64"
    (copy / "tensors.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"embedding\.weight has the type C64"):
        load_checkpoint(copy, whole_model(), content())


def fails_on_one(folder: Path) -> None:
    parts = split("fsdp2", whole_model())
    wrong = replace(SHAPE, rope_theta=5.0) if distributed.get_rank() == 1 else SHAPE
    Checkpointer(RunDirectory(folder)).load("step-7", parts, content(shape=wrong), known_optimiser(parts))


def test_what_is_wrong_on_one_rank_is_raised_on_all(sharded_run):
    with pytest.raises(RanksFailedError) as caught:
        run_ranks(2, fails_on_one, sharded_run.path)
    assert str(caught.value).count("CheckpointError: The checkpoint is of another model") == 2
    assert "did not end in time" not in str(caught.value)


def test_a_damaged_checkpoint_that_cannot_be_set_aside_is_told(run):
    folder = run.checkpoints / f"step-{'0' * 245}"  # leaves no room for its new name
    folder.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="could not be set aside") as caught:
        set_aside(folder)
    assert "Move the folder away" in caught.value.hint


def test_a_manifest_has_what_the_training_needs(run):
    manifest = read_manifest(save(run, whole_model()))
    assert (manifest.step, manifest.samples, manifest.tokens, manifest.elapsed_seconds) == (7, 56, 560, 1.5)
    assert manifest.loss_scale is None


@pytest.mark.parametrize("length", [0, 1, 2, 5, 8, 37])
@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 7])
def test_pieces_are_those_of_torch_chunk(length, chunks):
    expected = list(torch.arange(length).chunk(chunks)) if length else []
    for index in range(chunks):
        begin, end = chunk_bounds(length, chunks, index)
        piece = expected[index] if index < len(expected) else torch.arange(0)
        assert list(range(begin, end)) == piece.tolist()


def test_boxes_on_a_mesh_cover_a_tensor_once():
    """Rows by fully sharded data parallel over tensor parallel, columns by another axis: uneven everywhere."""
    shape, mesh = (11, 5), (2, 3, 2, 2)
    placements = (Replicate(), _StridedShard(0, split_factor=2), Shard(0), Shard(1))
    seen = torch.zeros(shape)
    for first in range(3):
        for second in range(2):
            for third in range(2):
                (row, column), (rows, columns) = cut(shape, mesh, (1, first, second, third), placements)
                seen[row : row + rows, column : column + columns] += 1
    assert seen.eq(1).all()
    # What tensor parallel leaves on its first rank is the first half, and that is cut into three.
    assert cut(shape, mesh, (0, 1, 0, 0), placements) == ((2, 0), (2, 3))


def test_placements_that_cut_no_boxes_are_refused():
    with pytest.raises(ValueError, match="cuts no boxes"):
        cut((8,), (2, 2), (0, 0), (_StridedShard(0, split_factor=4), Shard(0)))
    with pytest.raises(ValueError, match="nobody has taken"):
        cut((8,), (2,), (0,), (Partial(),))
