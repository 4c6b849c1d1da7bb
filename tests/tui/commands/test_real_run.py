"""A real training, started, watched, asked and stopped through the commands alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
DEADLINE_SECONDS = 240.0


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Enough text for a small model, in 64 documents."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(64):
        lines = (f"the number {number} times {factor} is {number * factor}\n" for factor in range(60))
        (folder / f"{number:02}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def small(text: Path, *more: str) -> list[str]:
    """The characters profile on ``text`` with a model that makes a step in milliseconds."""
    sets = (
        f"data.source={text}", "data.sequence_length=32", "data.validation_fraction=0.2", "model.layers=1",
        "model.hidden=16", "model.heads=2", "model.kv_heads=1", "optim.batch_size=2", "layout.threads_per_worker=1",
        "evaluation.every_steps=none", "evaluation.max_batches=2", "evaluation.sample_tokens=8", *more,
    )  # fmt: skip
    return ["characters", *(word for field in sets for word in ("--set", field))]


@pytest.fixture
def started(command: Command, text: Path) -> Iterator[str]:
    """A run that would go on for hours; it is stopped in the end whatever happens."""
    arguments = small(text, "budget.max_steps=1000000", "checkpoint.every_steps=none")
    done = command("train", *arguments, "--detach", "--json", "--name", "real")
    assert done.code == 0, done.err
    assert set(done.json) == {"run", "directory", "state"}
    assert Path(done.json["directory"], "spec.toml").is_file()
    yield done.json["run"]
    command("stop", done.json["run"], "--wait")


def wait_until(command: Command, run: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status that is as wanted."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        status: dict[str, Any] = command("status", run, "--json").json
        if true(status):
            return status
        assert time.monotonic() < deadline, status
        assert status["state"] not in {"failed", "lost"}, command("logs", run).out
        time.sleep(0.2)


@pytest.mark.slow
def test_life_of_a_run(command: Command, started: str) -> None:
    wait_until(command, started, lambda status: (status["step"] or 0) >= 5)
    assert [run["run"] for run in command("runs", "--json").json["runs"]] == [started]
    assert command("checkpoint", started).code == 0
    paused = command("pause", started, "--json")
    assert paused.code == 0, paused.err
    assert paused.json["state"] == "paused"
    assert "Cannot pause a run that is paused" in command("pause", started).err
    assert command("resume", started, "--json").json["state"] in {"paused", "running"}
    wait_until(command, started, lambda status: status["state"] == "running")
    assert command("delete", started, "--yes").code == 1

    stopped = command("stop", started, "--wait", "--json")
    assert stopped.code == 0, stopped.err
    assert stopped.json["state"] == "finished"
    status = command("status", started, "--json").json
    assert status["step"] > 5
    assert status["train_loss"] > 0

    scores = command("eval", started, "--json")
    assert scores.code == 0, scores.err
    assert scores.json["perplexity"] > 1
    assert scores.json["bits_per_byte"] > 0
    written = command("generate", started, "--prompt", "the number ", "--tokens", "5", "--seed", "3", "--json")
    assert written.code == 0, written.err
    assert written.json["prompt"] == "the number "
    assert 0 < len(written.json["text"]) <= 5
    exported = command("export", started)
    assert exported.code == 0, exported.err
    assert Path(exported.out.strip(), "config.json").is_file()

    picture = command("attach", started, "--once")
    assert picture.code == 0
    assert "perplexity" in picture.out
    assert command("delete", started, "--yes").code == 0
    assert command("runs", "--json").json == {"runs": []}


@pytest.mark.slow
def test_training_in_plain_lines_to_the_end(command: Command, text: Path) -> None:
    done = command("train", *small(text, "budget.max_steps=8"), timeout=DEADLINE_SECONDS)
    assert done.code == 0, done.err
    for words in (
        "data      ",
        "start     from the start",
        "validate  step 0 of 8",
        "step 8 of 8",
        "saved ",
        "finished",
    ):
        assert words in done.out
    assert "ctrl-c leaves it running" in done.err


@pytest.mark.slow
def test_a_run_that_fails_is_exit_code_1_and_says_why(command: Command, text: Path) -> None:
    for file in text.iterdir():
        file.write_bytes(b"\x00\x01\x02" * 500)
    done = command("train", *small(text, "budget.max_steps=8"), "--json", timeout=DEADLINE_SECONDS)
    assert done.code == 1
    assert done.json["state"] == "failed"
    assert "failed" in done.err
    assert str(text) in done.err
