"""``runs status attach logs delete`` and the requests, on runs whose files are there already."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.contract.events import CommandDone, State, Train
from engine.contract.journal import Journal
from engine.contract.rundir import RunDirectory
from tui.commands.following import Following

Call = Callable[..., Any]
NewRun = Callable[..., RunDirectory]
STATUS_FIELDS = {
    "run", "state", "reason", "step", "max_steps", "tokens", "train_loss", "validation_loss", "validation_perplexity",
    "tokens_per_second", "eta_seconds", "layout", "devices",
}  # fmt: skip
DEVICE_FIELDS = {
    "index", "kind", "name", "uuid", "memory_total_bytes", "memory_used_bytes", "utilisation", "temperature_celsius",
    "power_watts", "clock_mhz", "throttle_reasons", "processes",
}  # fmt: skip


def test_status_as_json_has_all_fields_with_null_for_unknown(call: Call, ended_run: RunDirectory) -> None:
    found = call("status", ended_run.id, "--json").json
    assert set(found) >= STATUS_FIELDS
    assert (found["run"], found["state"], found["step"], found["max_steps"]) == (ended_run.id, "finished", 40, 40)
    assert (found["tokens"], found["train_loss"], found["validation_perplexity"]) == (
        20_480,
        pytest.approx(3.3),
        20.086,
    )
    assert found["eta_seconds"] is None
    assert found["layout"]["accumulation"] == 2


@pytest.mark.parametrize("how", ["id", "prefix", "name", "latest", "folder"])
def test_a_run_is_found_by(call: Call, ended_run: RunDirectory, how: str) -> None:
    words = {
        "id": ended_run.id, "prefix": ended_run.id[:12], "name": "ended", "latest": "latest",
        "folder": str(ended_run.path),
    }  # fmt: skip
    assert call("status", words[how], "--json").json["run"] == ended_run.id


def test_status_in_words(call: Call, ended_run: RunDirectory) -> None:
    done = call("status", "latest")
    assert done.code == 0
    for words in ("finished: all steps are done", "40/40", "20.09", "single on cpu", str(ended_run.path)):
        assert words in done.out


def test_runs_lists_newest_first_and_filters(call: Call, ended_run: RunDirectory, new_run: NewRun) -> None:
    newer = new_run("newer")
    listed = call("runs").out.splitlines()
    assert listed[0].split()[:2] == ["run", "state"]
    assert [line.split()[0] for line in listed[1:]] == [newer.id, ended_run.id]
    both = call("runs", "--json").json["runs"]
    assert [run["run"] for run in both] == [newer.id, ended_run.id]
    assert set(both[0]) >= STATUS_FIELDS
    assert [run["run"] for run in call("runs", "--state", "finished", "--json").json["runs"]] == [ended_run.id]
    wrong = call("runs", "--state", "happy")
    assert wrong.code == 2
    assert "finished" in wrong.err


def test_devices_as_json_has_all_fields(call: Call) -> None:
    devices = call("devices", "--json").json["devices"]
    assert devices[-1]["kind"] == "cpu"
    assert all(set(device) >= DEVICE_FIELDS for device in devices)


def test_plan_as_json(call: Call) -> None:
    done = call("plan", "quickstart", "--json")
    assert done.code == 0
    found = done.json
    assert set(found) == {"optimal", "gap", "evaluated", "feasible", "seconds", "plans"}
    best = found["plans"][0]
    assert set(best["layout"]) >= {"pp", "dp_replicate", "dp_shard", "cp", "tp", "micro_batch", "accumulation"}
    assert best["fits"] is True
    assert best["tokens_per_second"] is None
    assert len(best["memory_bytes"]) == 1


def test_dry_run_prints_spec_estimate_and_command_and_starts_nothing(call: Call) -> None:
    done = call("train", "quickstart", "--dry-run", "--set", "layout.devices=1")
    assert done.code == 0
    assert 'preset = "llama-1m"' in done.out
    assert "1,018,864" in done.out
    assert "-m torch.distributed.run --nnodes 1 --nproc-per-node 1" in done.out
    assert call("runs", "--json").json == {"runs": []}
    found = call("train", "quickstart", "--dry-run", "--json").json
    assert found["spec"]["model"]["preset"] == "llama-1m"
    assert found["plan"]["plans"][0]["fits"] is True
    assert found["command"][1:4] == ["-P", "-m", "torch.distributed.run"]
    assert found["environment"]["PYTHONSAFEPATH"] == "1"


def test_presets_are_counted_exactly(call: Call) -> None:
    counts = {preset["name"]: preset["parameters"] for preset in call("presets", "--json").json["presets"]}
    # Published: GPT-2 small in the transformers documentation, Llama 3.1 8B and 3.2 1B in their model cards.
    assert (counts["gpt2-124m"], counts["llama-8b"]) == (124_439_808, 8_030_261_248)
    assert counts["llama-1b"] == 1_235_814_400


def test_attaching_to_an_ended_run_says_how_it_stands(call: Call, ended_run: RunDirectory) -> None:
    done = call("attach", ended_run.id)
    assert done.code == 0
    assert "finished: all steps are done" in done.out


def test_one_picture_of_a_run(call: Call, ended_run: RunDirectory) -> None:
    done = call("attach", "latest", "--once")
    assert done.code == 0
    assert "finished" in done.out
    assert "loss" in done.out
    assert len(done.out.splitlines()) > 20
    assert "\x1b" not in done.out


def test_logs_are_cut_and_harmless(call: Call, ended_run: RunDirectory) -> None:
    done = call("logs", ended_run.id, "-n", "3")
    assert done.out == "line 98\nline 99\nan ␛[31mescape\n"
    assert call("logs", ended_run.id, "-n", "0").out == ""
    followed = call("logs", ended_run.id, "-f", "-n", "1")
    assert followed.out == "an ␛[31mescape\n"


@pytest.mark.parametrize("action", ["pause", "checkpoint", "stop"])
def test_requests_that_an_ended_run_cannot_take(call: Call, ended_run: RunDirectory, action: str) -> None:
    done = call(action, ended_run.id)
    assert done.code == 1
    assert f"Cannot {action} a run that is finished" in done.err
    assert "resume" in done.err


def test_deleting_asks_and_needs_yes_where_nobody_can_answer(call: Call, ended_run: RunDirectory) -> None:
    refused = call("delete", ended_run.id)
    assert refused.code == 1
    assert "--yes" in refused.err
    assert ended_run.path.is_dir()
    assert call("delete", ended_run.id, "--yes").code == 0
    assert not ended_run.path.exists()


def test_a_copied_run_is_found_by_its_folder(call: Call, ended_run: RunDirectory, tmp_path: Path) -> None:
    copy = shutil.copytree(ended_run.path, tmp_path / "elsewhere" / ended_run.id)
    shutil.rmtree(ended_run.path)
    assert call("status", str(copy), "--json").json["directory"] == str(copy)


def test_following_prints_what_happens_until_the_end(new_run: NewRun) -> None:
    run = new_run("followed")
    lines: list[str] = []
    seen = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        seen.set()

    follower = threading.Thread(target=Following(run).follow, args=(say,), daemon=True)
    with Journal(run.events_of("rank0")) as rank0, Journal(run.events_of("supervisor")) as supervisor:
        rank0.write(State(state="running"))
        rank0.write(_train(1))
        follower.start()
        assert seen.wait(20)
        assert "train     step 1 of 40  loss 5.000  perplexity 148.4" in lines[0]
        supervisor.write(State(state="failed", reason="a reason"))
    follower.join(20)
    assert not follower.is_alive()
    assert lines[-1].endswith("failed    a reason")


def _train(step: int) -> Train:
    return Train(
        step=step, loss=5.0, lr=1e-3, grad_norm=1.0, tokens=512, samples=8, tokens_per_second=1000.0,
        step_seconds=0.5, elapsed_seconds=0.5,
    )  # fmt: skip


def test_interrupting_an_attached_command_leaves_the_run_alone(new_run: NewRun) -> None:
    run = new_run("left-alone")
    with Journal(run.events_of("rank0")) as rank0:
        rank0.write(State(state="running"))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tui.cli", "attach", run.id], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True, encoding="utf-8", env=dict(os.environ),
            # Where the tests are a background job of a shell, ctrl-c is ignored, and a child would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - this process has no threads that hold locks here
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:  # the last line before it waits for events
            if not line.strip():
                break
        rank0.write(_train(1))
        assert "train     step 1" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "detached: the training goes on" in err
    assert f"traindeck attach {run.id}" in err
    assert "Traceback" not in out + err
    assert not run.commands.exists() or not run.commands.read_bytes()


def test_a_request_without_an_answer_says_so(
    call: Call, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("tui.commands.control.ANSWER_SECONDS", 0.2)
    run = new_run("silent")
    with Journal(run.events_of("rank0")) as rank0:
        rank0.write(State(state="running"))
    before = time.monotonic()
    done = call("pause", run.id)
    assert time.monotonic() - before < 20
    assert done.code == 1
    assert "did not answer" in done.err
    assert run.commands.read_text().count("\n") == 1


@pytest.mark.parametrize("words", ["evil\x1b[2Jwords", "two\nlines"])
def test_foreign_words_in_answers_are_neutralised(
    call: Call, new_run: NewRun, tmp_path: Path, words: str
) -> None:  # fmt: skip
    run = new_run("foreign")
    run.info.write_text("{}")  # damaged: then the folder's name is all that is known of it
    moved = RunDirectory(run.path.rename(tmp_path / f"run-{words}"))
    moved.info.write_bytes(json.dumps({"id": "x", "name": "x", "created": 1.0, "host": "h", "version": "1"}).encode())
    with Journal(moved.events_of("supervisor")) as supervisor:
        supervisor.write(State(state="failed", reason=words))
    asked = call("delete", str(moved.path))
    done = call("delete", str(moved.path), "--yes")
    assert done.code == 0
    assert done.out.count("\n") == 1
    assert "\x1b" not in asked.err + done.out


def test_the_reason_of_a_lost_run_is_one_harmless_line(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.commands.following.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("tui.commands.following.read_state", lambda _: ("lost", "gone\x1b[2J\naway"))
    run = new_run("lost")
    with Journal(run.events_of("rank0")) as rank0:
        rank0.write(State(state="running"))
    lines: list[str] = []
    Following(run).follow(lines.append)
    assert lines[-1] == "lost: gone␛[2J⏎away"


def test_deleting_a_run_as_json(call: Call, ended_run: RunDirectory) -> None:
    done = call("delete", ended_run.id, "--yes", "--json")
    assert done.json == {"deleted": ended_run.id, "directory": str(ended_run.path)}


def test_what_is_done_with_profiles_as_json(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "new.toml"

    def done(*arguments: str) -> Any:
        return call("profiles", *arguments, "--json").json

    assert done("save", "mine", "quickstart") == {"profile": "mine"}
    assert done("clone", "mine", "other") == {"profile": "other", "copied_from": "mine"}
    assert done("rename", "other", "third") == {"profile": "third", "renamed_from": "other"}
    assert done("export", "third", str(file)) == {"profile": "third", "file": str(file)}
    assert done("import", str(file), "--name", "fourth") == {"profile": "fourth", "file": str(file)}
    assert done("delete", "fourth", "--yes") == {"deleted": "fourth"}


def test_every_command_with_a_result_takes_json(call: Call) -> None:
    """Texts by nature are left out: the picture and the lines of ``attach``, and ``logs``."""
    commands = ["demo", "train", "plan", "runs", "status", "stop", "pause", "resume", "checkpoint", "delete", "devices",
                "presets", "strategies", "data", "generate", "eval", "export", "doctor", "version"]  # fmt: skip
    profiles = ["list", "show", "save", "clone", "rename", "delete", "export", "import"]
    for words in [*([name] for name in commands), *(["profiles", name] for name in profiles)]:
        assert "--json" in call(*words, "--help").out, words
    assert call("version", "--json").json["version"]


def test_an_empty_log_says_so(call: Call, new_run: NewRun) -> None:
    done = call("logs", new_run("silent").id)
    assert (done.code, done.out) == (0, "")
    assert "the log is empty" in done.err


def test_a_text_in_place_of_a_spec_gets_the_right_command(call: Call, tmp_path: Path) -> None:
    notes = tmp_path / "my notes.txt"
    notes.write_text("to be learned")
    done = call("train", str(notes))
    assert done.code == 2
    assert f"traindeck train quickstart --set 'data.source={notes}'" in done.err


def test_an_exported_file_is_replaced_only_when_told_so(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "there.toml"
    file.write_text("precious")
    assert call("profiles", "export", "lstm", str(file)).code == 2
    assert file.read_text() == "precious"
    assert call("profiles", "export", "lstm", str(file), "--overwrite").code == 0
    assert "precious" not in file.read_text()


def test_a_checkpoint_that_was_asked_for_is_named(call: Call, new_run: NewRun) -> None:
    run = new_run("saving")

    def answer() -> None:
        deadline = time.monotonic() + 20
        while not (run.commands.exists() and run.commands.read_bytes().endswith(b"\n")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        asked = json.loads(run.commands.read_text())
        rank0.write(CommandDone(id=asked["id"], action="checkpoint", accepted=True, message="step-7 is written"))

    with Journal(run.events_of("rank0")) as rank0:
        rank0.write(State(state="running"))
        engine = threading.Thread(target=answer, daemon=True)
        engine.start()
        done = call("checkpoint", run.id)
        engine.join(20)
    assert done.code == 0
    assert "(step-7 is written)" in done.out
