"""Reading the files of a run while they grow."""

import time
from pathlib import Path

from engine.contract.events import Codec, Notice, Telemetry, Train
from engine.contract.journal import Journal
from engine.contract.rundir import RunDirectory
from tests.tui.recorded import Clock, recorded_run, started, train
from tui.blocks import TrainBlock
from tui.follow import LogTail, RunFollower, read_head
from tui.state import RunView


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=20)
    follower = RunFollower(run)
    assert sum(isinstance(event, Train) for _, event in follower.read()) == 20
    assert follower.read() == []
    with Journal(run.events_of("rank0"), Clock()) as journal:
        journal.write(train(21))
    assert [(source, event.step) for source, event in follower.read()] == [("rank0", 21)]


def test_files_that_appear_later_are_found(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    follower = RunFollower(run)
    assert follower.read() == []
    with Journal(run.events_of("rank3"), Clock()) as journal:
        journal.write(Notice(message="here"))
    assert [source for source, _ in follower.read()] == ["rank3"]


def test_damage_and_unknown_kinds_are_skipped_and_counted(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=5)
    path = run.events_of("rank0")
    with path.open("ab") as file:
        file.write(b'{"kind":"of-the-future","time":1}\n{"kind": "train", "loss"\n\xff\xfe\n')
        file.write(b'{"kind":"notice","message":"half')
    follower = RunFollower(run)
    read = [event for source, event in follower.read() if source == "rank0"]
    assert sum(isinstance(event, Train) for event in read) == 5
    assert follower.skipped == 3
    with path.open("ab") as file:
        file.write(b' a line"}\n')
    assert [event.message for _, event in follower.read() if isinstance(event, Notice)] == ["half a line"]


def test_blocks_have_ascending_steps_only(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with Journal(run.events_of("rank0"), Clock()) as journal:
        for event in (started(), *map(train, range(1, 11)), *map(train, range(6, 16))):
            journal.write(event)
    blocks = [part for _, part in RunFollower(run).read_blocks() if isinstance(part, TrainBlock)]
    assert [list(block.axes[0]) for block in blocks] == [list(range(1, 11)), list(range(6, 16))]
    view = RunView()
    for block in blocks:
        view.apply(block)
    assert list(view.series["train_loss"].x("step")) == list(range(1, 16))


def test_of_long_telemetry_only_the_head_and_the_tail_are_read(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, steps=1, gpus=8)
    path = run.telemetry / "atelier.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as file:
        file.writelines(lines[1:] * 20)
    assert path.stat().st_size > 2_000_000
    view = RunView()
    follower = RunFollower(run)
    samples = 0
    while parts := follower.read():
        for source, event in parts:
            view.apply(event, source)
            samples += isinstance(event, Telemetry)
    assert len(view.live_devices()) == 9
    assert 200 < samples < 800
    assert follower.skipped == 0


def test_a_log_is_read_from_its_end_and_then_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    tail = LogTail(path, tail_bytes=100)
    assert tail.read() == []
    path.write_bytes(b"x" * 200 + b"\nlast line\nhalf")
    assert tail.read() == ["last line"]
    with path.open("ab") as file:
        file.write(b" a line\n10 %\r50 %\r100 %\r\n\xff\n")
    assert tail.read() == ["half a line", "100 %", "\ufffd"]
    path.write_bytes(b"anew\n")
    assert tail.read() == ["anew"]


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"")
    tail = LogTail(path)
    tail.read()
    path.write_bytes(b"y" * 100_000)
    assert [len(line) for line in tail.read()] == [4096]


def test_the_small_files_of_a_run(tmp_path: Path) -> None:
    run = recorded_run(tmp_path)
    head = read_head(run)
    assert head.info is not None
    assert head.info.name == "quickstart"
    assert head.layout is not None
    assert head.layout.world_size == 2
    run.spec.write_text("this is not = = TOML")
    run.plan.write_bytes(b"{}")
    damaged = read_head(run)
    assert damaged.info is not None
    assert damaged.spec is None
    assert damaged.layout is None


def test_a_long_run_opens_quickly_and_never_holds_up_the_screen(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with Journal(run.events_of("rank0"), Clock()) as journal:
        journal.write(started())
    with run.events_of("rank0").open("ab") as file:
        file.writelines(Codec.encode(train(step)) for step in range(1, 30_001))
    begun = time.process_time()
    view, follower, longest = RunView(), RunFollower(run), 0.0
    while parts := follower.read_blocks():
        folding = time.process_time()
        for source, part in parts:
            view.apply(part, source)
        longest = max(longest, time.process_time() - folding)
    assert len(view.series["train_loss"]) == 30_000
    # Bounds that a quadratic reader breaks and a slow machine does not: a piece takes 3 ms here, all a tenth of a s.
    assert longest < 0.1
    assert time.process_time() - begun < 2.0
