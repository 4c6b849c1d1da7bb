"""Event files: one writer, readers that wait for half-written lines, kills and full disks."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.events import KNOWN, SCHEMA, Codec, Notice, Train, Unknown
from engine.contract.journal import EventReader, Journal, LineReader


def notice(text: str) -> Notice:
    return Notice(message=text)


def test_events_are_stamped_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events" / "rank0.jsonl"
    with Journal(path, now=lambda: 12.5) as journal:
        journal.write(notice("one"))
        journal.write(notice("two"))
    events = EventReader(path).read_all()
    assert [(e.schema, e.seq, e.time) for e in events] == [(SCHEMA, 0, 12.5), (SCHEMA, 1, 12.5)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reopened_journal_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text in ("one", "two"):
        with Journal(path) as journal:
            journal.write(notice(text))
    assert [e.seq for e in EventReader(path).read_all()] == [0, 1]


def test_a_half_written_line_of_a_killed_writer_is_ended_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.write(notice("one"))
    with path.open("ab") as file:
        file.write(b'{"kind":"notice","mess')
    with Journal(path) as journal:
        journal.write(notice("two"))
    reader = EventReader(path)
    assert [e.message for e in reader.read_all() if isinstance(e, Notice)] == ["one", "two"]
    assert reader.skipped == 1


def test_a_reader_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = Codec.encode(notice("whole"))
    reader = EventReader(path)
    assert reader.read() == []
    path.write_bytes(line[:10])
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(line[10:])
    assert [e.message for e in reader.read() if isinstance(e, Notice)] == ["whole"]
    assert reader.read() == []


def test_a_line_longer_than_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineReader, "BLOCK", 16)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 100 + b"\n" + b"y" * 40)
    reader = LineReader(path)
    assert reader.read() == [b"x" * 100]
    assert reader.read() == []


def test_a_replaced_shorter_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntwo\n")
    reader = LineReader(path)
    assert reader.read() == [b"one", b"two"]
    path.write_bytes(b"new\n")
    assert reader.read() == [b"new"]


def test_newer_kinds_and_fields_do_not_disturb(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"kind":"telepathy","schema":9,"seq":0,"time":1,"step":null}\n'
        b'{"kind":"notice","schema":9,"seq":1,"time":1,"step":3,"message":"m","colour":"red"}\n'
        b"\xff\xfe not json\n" + b"[" * 5000 + b"\n"
    )
    reader = EventReader(path)
    (event,) = reader.read_all()
    assert isinstance(event, Notice)
    assert (event.message, event.step) == ("m", 3)
    assert reader.skipped == 3


def test_numbers_that_are_not_finite_become_unknown() -> None:
    line = Codec.encode(
        Train(loss=float("nan"), lr=1.0, grad_norm=float("inf"), tokens=1, samples=1, tokens_per_second=1.0,
              step_seconds=1.0, elapsed_seconds=1.0)
    )  # fmt: skip
    event = Codec.decode(line)
    assert isinstance(event, Train)
    assert event.loss is None
    assert event.grad_norm is None


@given(st.binary(max_size=300))
def test_no_line_raises(line: bytes) -> None:
    assert isinstance(Codec.decode(line), (Unknown, *KNOWN))


def test_kinds_are_distinct() -> None:
    tags = [kind.__struct_config__.tag for kind in KNOWN]
    assert len(set(tags)) == len(tags)


def test_a_killed_writer_loses_at_most_the_event_being_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    program = (
        "import sys; from pathlib import Path\n"
        "from engine.contract.journal import Journal; from engine.contract.events import Notice\n"
        "journal = Journal(Path(sys.argv[1])); n = 0\n"
        "while True:\n journal.write(Notice(message=str(n))); n += 1; print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [next(writer.stdout) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
    reader = EventReader(path)
    messages = [int(e.message) for e in reader.read_all() if isinstance(e, Notice)]
    assert messages == list(range(len(messages)))
    assert len(messages) >= int(said[-1])
    assert reader.skipped == 0


def test_a_full_disk_raises_and_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    program = (
        "import sys; from pathlib import Path\n"
        "from engine.contract.journal import Journal; from engine.contract.events import Notice\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "try:\n"
        " while True: journal.write(Notice(message='x' * 100))\n"
        "except OSError as error: print(type(error).__name__)\n"
    )

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, preexec_fn=small_files
    )
    assert done.stdout.strip() == "OSError"
    with Journal(path) as journal:
        journal.write(notice("after"))
    messages = [e.message for e in EventReader(path).read_all() if isinstance(e, Notice)]
    assert messages[-1] == "after"
    assert len(messages) >= 4


def test_the_event_after_a_cut_line_stands_alone(tmp_path: Path) -> None:
    """A disk that is full in the middle of a line takes no line break either; then there is room again."""
    path = tmp_path / "a.jsonl"
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from engine.contract.journal import Journal; from engine.contract.events import Notice\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "for attempt in range(20):\n"
        " try: journal.write(Notice(message=str(attempt) + 'x' * 100))\n"
        " except OSError: pass\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "journal.write(Notice(message='after'))\n"
        "journal.write(Notice(message='the last'))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    reader = EventReader(path)
    events = reader.read_all()
    assert [e.message for e in events[-2:] if isinstance(e, Notice)] == ["after", "the last"]
    assert reader.skipped == 1
    assert b"\n\n" not in path.read_bytes()
    assert len({e.seq for e in events}) == len(events)


def test_a_block_of_unknown_events_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineReader, "BLOCK", 256)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"kind":"telepathy"}\n' * 100)
    with Journal(path) as journal:
        journal.write(notice("behind"))
    assert len(EventReader(path).read_all()) == 1
