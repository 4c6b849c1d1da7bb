"""What the supervisor is made of, with real processes and files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.contract.events import CommandDone, Detached, Failure, Notice
from engine.contract.journal import EventReader, Journal
from engine.contract.layout import Layout
from engine.contract.machine import Device
from engine.contract.rundir import Command, ProcessIdentity, RunDirectory
from engine.hardware.host import identity, is_alive
from engine.runs import control, detach, launch, stopping
from engine.runs.child import Child
from engine.runs.command import data_command, process_environment, training_command, training_environment
from engine.runs.inbox import append_command
from engine.runs.processes import Known, end_leftovers, folder_of
from engine.runs.stopping import Stop

NewRun = Callable[..., RunDirectory]
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def _press_until_ended(stop: Stop, child: Child) -> int:
    deadline = time.monotonic() + 30
    while (code := child.poll()) is None:
        stop.press()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def _stubborn(run: RunDirectory) -> Child:
    child = Child(run, [sys.executable, "-c", STUBBORN], process_environment())
    deadline = time.monotonic() + 30
    while not run.log.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return child


def test_what_does_not_stop_is_killed_in_the_end(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "AGENT_SECONDS", 0.2)
    run = new_run()
    child = _stubborn(run)
    stop = Stop(run, child, grace=0.2)
    stop.press()
    assert _press_until_ended(stop, child) == -signal.SIGKILL


def test_a_checkpoint_in_the_making_is_waited_for(new_run: NewRun) -> None:
    run = new_run()
    child = Child(run, [sys.executable, "-c", "import signal; signal.pause()"], process_environment())
    aside = run.checkpoints / ".step-5.partial"
    aside.mkdir()
    (aside / "model.safetensors").write_text("growing")
    stop = Stop(run, child, grace=0.0)
    stop.press()
    assert child.wait(0.3) is None
    aside.rename(run.checkpoints / "step-5")
    (run.checkpoints / "step-5/manifest.json").write_text("{}")
    assert _press_until_ended(stop, child) == -signal.SIGTERM


def test_leftovers_are_ended_and_strangers_are_not(new_run: NewRun) -> None:
    run = new_run()
    folder_of(run).mkdir()
    code = "print('up', flush=True); import signal; signal.pause()"
    processes = [
        subprocess.Popen([sys.executable, "-c", each], stdout=subprocess.PIPE) for each in (code, STUBBORN, code)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    known = Known(run)
    known.add([process.pid for process in processes[:2]])
    known.add([process.pid for process in processes[:2]])
    stranger = msgspec.structs.replace(identity(processes[2].pid) or known.read()[0], start_ticks=1, started=1.0)
    elsewhere = ProcessIdentity(pid=processes[2].pid, started=None, host="another")
    assert end_leftovers([*Known(run).read(), stranger, elsewhere], patience=0.3) == 2
    assert [process.wait(10) for process in processes[:2]] == [-signal.SIGTERM, -signal.SIGKILL]
    assert processes[2].poll() is None
    assert end_leftovers(Known(run).read()) == 0
    for process in processes:
        process.kill()
        process.communicate()


def test_a_stop_survives_checkpoints_that_vanish_while_it_looks(new_run: NewRun) -> None:
    run = new_run()
    partial = run.checkpoints / ".step-5.partial"
    partial.mkdir()
    (partial / "gone").symlink_to("nowhere")
    (run.checkpoints / "file").write_text("")
    child = Child(run, [sys.executable, "-c", "import signal; signal.pause()"], process_environment())
    stop = Stop(run, child, grace=0.0)
    assert _press_until_ended(stop, child) == -signal.SIGTERM
    partial.joinpath("gone").unlink()
    partial.rmdir()
    (run.checkpoints / "file").unlink()
    run.checkpoints.rmdir()
    child = Child(run, [sys.executable, "-c", "import signal; signal.pause()"], process_environment())
    assert _press_until_ended(Stop(run, child, grace=0.0), child) == -signal.SIGTERM


FULL = """
import resource, sys
from pathlib import Path
from engine.contract.events import Notice
from engine.runs import reporter

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

path = Path(sys.argv[1])
told = reporter.Reporter(path)
room(150)
told.say(Notice(message="one"), Notice(message="two" * 50))
assert not told.flush()
assert path.stat().st_size == 150, "a part of the second event is there"
room(resource.RLIM_INFINITY)
told.say(Notice(message="three"))
told.close()
never = reporter.Reporter(path)
room(path.stat().st_size)
reporter.PATIENCE_SECONDS = 0.0
never.say(Notice(message="lost"))
never.close()
"""


def test_events_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    done = subprocess.run([sys.executable, "-P", "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stderr
    reader = EventReader(path)
    messages = [event.message for event in reader.read_all() if isinstance(event, Notice)]
    assert messages == ["one", "two" * 50, "three"]
    assert reader.skipped == 1


WRITER = """
import sys
from pathlib import Path
from engine.contract.rundir import RunDirectory
from engine.runs.inbox import append_command
for _ in range(200):
    append_command(RunDirectory(Path(sys.argv[1])), "checkpoint")
"""


def test_requests_of_several_writers_do_not_mix(new_run: NewRun) -> None:
    run = new_run()
    writers = [subprocess.Popen([sys.executable, "-P", "-c", WRITER, str(run.path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = run.commands.read_bytes().splitlines()
    assert len({msgspec.json.decode(line, type=Command).id for line in lines}) == 600
    assert run.commands.stat().st_mode & 0o777 == 0o600


def test_answers_are_found_in_long_files(new_run: NewRun) -> None:
    run = new_run()
    command = append_command(run, "pause")
    with Journal(run.events_of("rank0")) as journal:
        journal.write(CommandDone(id="another", action="pause", accepted=True))
    assert control.wait_for(run, command, 0.0) is None
    with run.events_of("rank0").open("ab") as file:
        file.write((b"x" * 200 + b"\n") * 20_000)
    with Journal(run.events_of("rank0")) as journal:
        journal.write(CommandDone(id=command.id, action="pause", accepted=False, message="not now"))
    done = control.wait_for(run, command, 10.0)
    assert done is not None
    assert (done.accepted, done.message) == (False, "not now")


LAYOUT = Layout(
    strategy="ddp", accelerator="cuda", device_indices=(1, 3), dp_replicate=2, micro_batch=1, accumulation=1,
    precision="fp32",
)  # fmt: skip


def test_command_and_environment_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    command = training_command(LAYOUT, "/runs/x", ["guard", "--"])
    assert command[:4] == [sys.executable, "-P", "-m", "torch.distributed.run"]
    assert command[command.index("--nproc-per-node") + 1] == "2"
    assert command[command.index("--no-python") + 1 :] == [
        "guard", "--", sys.executable, "-P", "-m", "engine.training", "--run-dir", "/runs/x",
    ]  # fmt: skip
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices = [Device(index=index, kind="cuda", uuid=f"GPU-{index}") for index in range(4)]
    assert training_environment(LAYOUT, devices)["CUDA_VISIBLE_DEVICES"] == "1,3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert training_environment(LAYOUT, devices)["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-3"
    cpu = msgspec.structs.replace(LAYOUT, accelerator="cpu", threads_per_worker=3)
    assert training_environment(cpu)["OMP_NUM_THREADS"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in training_environment(cpu)
    assert training_environment(cpu)["MALLOC_MMAP_MAX_"] == "0"
    assert "MALLOC_MMAP_MAX_" not in training_environment(LAYOUT, devices)
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    assert training_environment(cpu)["MALLOC_MMAP_MAX_"] == "65536", "what a person has set stands"


def test_data_is_prepared_with_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert data_command(Path("/runs/x"))[-4:] == ["--run-dir", "/runs/x", "--workers", "1"]


def test_paths_in_the_environment_hold_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib:/abs")
    monkeypatch.setenv("TRAINDECK_HOME", "mine")
    environment = process_environment()
    assert environment["PYTHONPATH"] == f"{tmp_path}/lib:/abs"
    assert environment["TRAINDECK_HOME"] == str(tmp_path / "mine")
    assert environment["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize(
    ("text", "override", "kills"),
    [
        ("", "", False),
        ("[Login]\n#KillUserProcesses=yes\n", "", False),
        ("[Login]\nKillUserProcesses=yes\n", "", True),
        ("[Login]\nKillUserProcesses=yes\n", "[Login]\nKillUserProcesses=no\n", False),
        ("[Login]\nKillUserProcesses = true\nKillExcludeUsers=root ann\n", "", False),
        ("[Login]\nKillUserProcesses=1\nKillOnlyUsers=bob\n", "", False),
        ("[Login]\nKillUserProcesses=1\nKillOnlyUsers=bob ann\nKillExcludeUsers=\n", "", True),
    ],
)
def test_logind_settings_are_understood(tmp_path: Path, text: str, override: str, kills: bool) -> None:
    (tmp_path / "logind.conf").write_text(text)
    (tmp_path / "logind.conf.d").mkdir()
    (tmp_path / "logind.conf.d/50-own.conf").write_text(override)
    assert detach.kills_user_processes([tmp_path / "missing", tmp_path], user="ann") is kills


@pytest.mark.parametrize(("script", "how"), [('shift 5; exec "$@"', "systemd-run"), ("exit 1", "setsid")])
def test_systemd_run_is_used_where_it_works(
    new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, how: str
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/systemd-run"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(launch, "choose", lambda: "systemd-run")
    run = new_run()
    run.plan.unlink()  # the run ends as soon as it has begun
    launch.start(run)
    assert (tmp_path / "asked").read_text().startswith("--user --scope")
    supervisor = EventReader(run.events_of("supervisor"))
    events = supervisor.read_all()
    deadline = time.monotonic() + 30
    while not isinstance(events[-1], Failure):
        assert time.monotonic() < deadline
        events += supervisor.read_all()
    assert isinstance(events[0], Detached)
    assert events[0].how == how
    assert not is_alive(ProcessIdentity(pid=events[0].pid, started=1.0, start_ticks=1, host=events[0].host))
