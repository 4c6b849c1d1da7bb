"""``train --slurm`` as a person meets it: what would be submitted, what is refused, and an allocation at hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.contract.events import Launched
from engine.contract.journal import EventReader
from engine.contract.rundir import RunDirectory
from engine.runs.slurmjob import write_job
from tests.engine.runs.slurm_cluster import Cluster, running_cluster
from tests.tui.commands.conftest import COMMAND, Done

SPEC = """
name = "small"
[data]
source = "{text}"
sequence_length = 16
[tokenizer]
kind = "bytes"
[model]
preset = "llama-1m"
layers = 1
hidden = 16
heads = 2
kv_heads = 2
feed_forward = 32
[optim]
batch_size = 4
[layout]
accelerator = "cpu"
devices = 1
[budget]
max_steps = 5
[evaluation]
max_batches = 1
sample_tokens = 0
"""
Call = Callable[..., Done]


@pytest.fixture
def spec(tmp_path: Path) -> str:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the quick brown fox jumps over {number} lazy dogs\n\n" for number in range(500)))
    path = tmp_path / "small.toml"
    path.write_text(SPEC.format(text=text))
    return str(path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


def test_a_dry_run_prints_the_script_and_the_command(call: Call, spec: str, home: Path) -> None:
    done = call("train", spec, "--slurm", "--sbatch", "nodes=2", "--sbatch", "time=2:00:00", "--dry-run")
    assert done.code == 0, done.err
    for line in (
        "#SBATCH --nodes=2", "#SBATCH --time=2:00:00", "#SBATCH --ntasks-per-node=1", "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120", "#SBATCH --output=engine.log", "#SBATCH --open-mode=append",
        f"export TRAINDECK_HOME={home}", "sbatch --parsable DIR/job.sh",
    ):  # fmt: skip
        assert line in done.out.splitlines(), done.out
    assert "2 hosts" in done.out
    assert "-m engine.runs.supervisor --run-dir DIR --foreground" in done.out
    assert not (home / "runs").exists() or not list((home / "runs").iterdir())


def test_a_dry_run_as_json_has_script_command_and_plan(call: Call, spec: str) -> None:
    found = call("train", spec, "--sbatch", "gres=gpu:a100:2", "--sbatch", "no-requeue", "--set",
                 "layout.accelerator=cuda", "--set", "layout.devices=2", "--dry-run", "--json").json  # fmt: skip
    assert found["command"] == ["sbatch", "--parsable", "DIR/job.sh"]
    assert "--requeue" not in found["script"]
    assert "#SBATCH --no-requeue" in found["script"]
    assert found["plan"]["plans"][0]["layout"]["dp_replicate"] == 2
    assert found["spec"]["layout"]["hosts"] is None


def test_all_that_is_wrong_with_the_job_is_said_at_once(call: Call, spec: str) -> None:
    done = call("train", spec, "--slurm", "--sbatch", "output=mine", "--sbatch", "Nodes=2", "--sbatch", "time=",
                "--set", 'layout.hosts=["a", "b"]')  # fmt: skip
    assert done.code == 2
    for words in (
        "output cannot be set: it is the run's log", "'Nodes=2' is no option of sbatch", "'time=' has no usable value",
        "layout.hosts: Slurm chooses the hosts of its jobs",
    ):  # fmt: skip
        assert words in done.err


def test_more_gpus_than_the_job_asks_for_are_a_problem_before_it_waits(call: Call, spec: str) -> None:
    done = call("train", spec, "--sbatch", "gpus-per-node=2", "--set", "layout.accelerator=cuda", "--set",
                "layout.devices=4")  # fmt: skip
    assert done.code == 2
    assert "4 devices are asked for" in done.err


def test_without_slurm_nothing_is_left_behind(call: Call, spec: str, home: Path, tmp_path: Path) -> None:
    done = call("train", spec, "--slurm", "-d", PATH=str(tmp_path))
    assert done.code == 1
    assert "sbatch is not here" in done.err
    assert not list((home / "runs").iterdir())


def test_lists_show_the_job_where_a_run_has_one(call: Call, ended_run: RunDirectory) -> None:
    assert "slurm" not in call("runs").out
    assert call("status", "ended", "--json").json["slurm_job"] is None
    write_job(ended_run, 4711, submitted=True)
    assert "slurm job" in call("runs").out
    assert "4711" in call("runs").out
    assert any(line.split() == ["slurm", "job", "4711"] for line in call("status", "ended").out.splitlines())
    found = call("status", "ended", "--json").json
    assert (found["slurm_job"], found["slurm_state"]) == (4711, None)


def test_a_run_started_in_an_allocation_uses_its_nodes(cluster: Cluster, spec: str, home: Path) -> None:
    done = subprocess.run(
        ["salloc", "--nodes=2", *COMMAND, "train", spec, "--json"],
        env=cluster.environment, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    run = RunDirectory(Path(found["directory"]))
    assert (found["state"], found["step"], found["layout"]["hosts"]) == ("finished", 5, ["node1", "node2"])
    launched = [event for event in EventReader(run.events_of("supervisor")).read_all() if isinstance(event, Launched)]
    assert launched[-1].command[:5] == ("srun", "--nodes", "2", "--ntasks", "2")
    assert found["slurm_job"] is not None
    assert "hosts" not in run.spec.read_text(), "the next start has other nodes"


def test_a_dry_run_in_an_allocation_prints_its_srun(cluster: Cluster, spec: str) -> None:
    done = subprocess.run(
        ["salloc", "--nodes=2", *COMMAND, "train", spec, "--dry-run"],
        env=cluster.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "srun --nodes 2 --ntasks 2" in done.stdout
    assert "--master-addr ADDRESS --master-port PORT" in done.stdout
