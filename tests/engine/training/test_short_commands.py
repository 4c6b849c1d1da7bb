"""evaluate, complete and export: what the screens and commands ask of a trained model."""

from __future__ import annotations

import math
import subprocess
import sys
from argparse import Namespace

import msgspec
import pytest
import torch

from engine.contract.errors import CheckpointError, RunError
from engine.contract.events import Validation
from engine.model.huggingface import import_folder
from engine.training.complete import complete
from engine.training.evaluate import evaluate
from engine.training.export import export
from engine.training.inputs import open_run
from engine.training.loop import train
from engine.training.tensors import model_tensors


@pytest.fixture
def trained(make_run, open_session):
    run = make_run("evaluation.max_batches=none", "budget.max_steps=4", "checkpoint.every_steps=2")
    train(open_session(run))
    return run


def test_evaluate_scores_a_checkpoint_on_the_whole_held_out_text(trained, events_of):
    last = events_of(trained, Validation)[-1]
    newest = evaluate(Namespace(run_dir=trained.path, checkpoint=None))
    assert newest["checkpoint"] == "step-4"
    assert newest["tokens"] == last.tokens
    assert newest["loss"] == pytest.approx(last.loss, abs=1e-6)
    assert newest["bits_per_byte"] == pytest.approx(last.loss / math.log(2), abs=1e-6)
    earlier = evaluate(Namespace(run_dir=trained.path, checkpoint="step-2"))
    assert earlier["loss"] > newest["loss"]
    assert evaluate(Namespace(run_dir=trained.path, checkpoint="best")) == newest


def completion(run, **changes):
    wanted = {"checkpoint": None, "prompt": "def ", "tokens": 12, "temperature": 0.8, "top_k": None, "seed": 3}
    return complete(Namespace(run_dir=run.path, **{**wanted, **changes}))


def test_complete_goes_on_from_a_prompt_the_same_way_for_the_same_seed(trained):
    result = completion(trained)
    assert result["prompt"] == "def "
    assert result["checkpoint"] == "step-4"
    assert result["text"]
    assert not result["text"].startswith("def ")
    assert completion(trained) == result
    assert completion(trained, seed=4)["text"] != result["text"]
    assert completion(trained, prompt="", temperature=0.0)["text"] == completion(trained, prompt="", top_k=1)["text"]


def test_export_writes_the_very_weights(trained, open_session):
    result = export(Namespace(run_dir=trained.path, checkpoint=None))
    assert result == {"directory": str(trained.export), "checkpoint": "step-4"}
    _, weights = import_folder(trained.export)
    for name, tensor in model_tensors(open_session(trained).network.parts).items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_what_is_not_there_or_damaged_is_said(trained, make_run, tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        evaluate(Namespace(run_dir=make_run().path, checkpoint=None))
    with pytest.raises(RunError, match="Not a run"):
        open_run(tmp_path)
    with (trained.checkpoints / "step-4" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        completion(trained)


def test_a_model_is_used_though_the_memory_of_its_optimiser_is_damaged(trained):
    whole = completion(trained)
    (trained.checkpoints / "step-4" / "optimiser.safetensors").write_bytes(b"damaged")
    assert completion(trained) == whole
    (trained.checkpoints / "step-4" / "optimiser.safetensors").unlink()
    assert completion(trained) == whole
    (trained.checkpoints / "step-4" / "tensors.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"tensors\.json is not what was written"):
        completion(trained)


@pytest.mark.slow
def test_as_a_command_the_answer_and_the_error_are_json_on_stdout(trained):
    def run(*arguments: str) -> tuple[int, dict]:
        command = [sys.executable, "-P", "-m", "engine.training.complete", "--run-dir", str(trained.path), "--json"]
        result = subprocess.run([*command, *arguments], capture_output=True, check=False)
        return result.returncode, msgspec.json.decode(result.stdout)

    code, answer = run("--prompt", "def ", "--tokens", "3")
    assert (code, set(answer)) == (0, {"prompt", "text", "checkpoint"})
    code, answer = run("--checkpoint", "step-9")
    assert code == 1
    assert answer["error"]["title"] == "There is no such checkpoint"
    assert "step-2" in answer["error"]["hint"]
