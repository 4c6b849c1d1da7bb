"""``python -P -m engine.data`` as the supervisor and the command line run it."""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.contract.events import DataReady, Failure, Progress
from engine.contract.journal import EventReader
from engine.contract.rundir import RunDirectory
from engine.contract.spec import RunSpec, TokenizerSpec
from engine.contract.specfile import dump_spec
from engine.data.prepared import read_prepared
from engine.data.tokenizer import train_tokenizer

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "finds", "1234", "eggs", "in", "def", "f(x):")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """About 3 MB of text: seconds of work for the library's own encoding, in four shards."""
    path = tmp_path / "corpus.txt"
    with path.open("w") as file:
        for block in range(50):
            for line in range(1400):
                words = (WORDS[(block * 7 + line * 3 + word) % len(WORDS)] for word in range(9))
                file.write(f"{' '.join(words)} {line * block}\n")
            file.write("\n")
    return path


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """A small tokenizer that is there already."""
    file = tmp_path / "given.json"
    train_tokenizer(TokenizerSpec(kind="bpe", vocabulary=400), [" ".join(WORDS)] * 9).save(str(file))
    return {"kind": "file", "file": str(file)}


@pytest.fixture
def run(tmp_path: Path) -> Callable[[RunSpec], RunDirectory]:
    def make(spec: RunSpec) -> RunDirectory:
        directory = RunDirectory(tmp_path / "runs" / "a-run")
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.spec.write_text(dump_spec(spec))
        return directory

    return make


def _stories(tmp_path: Path, count: int = 50) -> Path:
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": f"Story {number} of a hen\n"}) + "\n" for number in range(count)))
    return path


def _wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    output = process.communicate(timeout=120)
    assert process.returncode == code, output
    return output


def test_a_run_gets_its_data_and_keeps_it(tmp_path: Path, spec_for: Any, command: Any, run: Any) -> None:
    directory = run(spec_for(_stories(tmp_path)))
    _finish(command("--run-dir", str(directory.path)))
    data = read_prepared(directory)
    link = directory.prepared.read_bytes()
    reader = EventReader(directory.events_of("data"))
    ready = reader.read_all()[-1]
    assert isinstance(ready, DataReady)
    assert ready.directory == str(data.folder)
    assert not ready.cached
    (tmp_path / "stories.jsonl").unlink()  # the run has its data: the source is not needed any more
    _finish(command("--run-dir", str(directory.path)))
    assert directory.prepared.read_bytes() == link
    assert reader.read_all()[-1].cached  # type: ignore[union-attr]


def test_lost_data_of_a_run_is_prepared_again(tmp_path: Path, spec_for: Any, command: Any, run: Any) -> None:
    directory = run(spec_for(_stories(tmp_path)))
    _finish(command("--run-dir", str(directory.path)))
    train = read_prepared(directory).folder / "train.bin"
    content = train.read_bytes()
    train.unlink()
    _finish(command("--run-dir", str(directory.path)))
    assert train.read_bytes() == content


def test_a_failure_is_the_last_event_and_no_traceback(tmp_path: Path, spec_for: Any, command: Any, run: Any) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 au lait\n" * 1000)
    directory = run(spec_for(path))
    output, errors = _finish(command("--run-dir", str(directory.path)), code=1)
    failure = EventReader(directory.events_of("data")).read_all()[-1]
    assert isinstance(failure, Failure)
    assert failure.title == "A file is not UTF-8"
    assert f"{path}: byte 3" in failure.message
    assert "iconv" in failure.hint
    assert failure.exception == "DataError"
    assert "Traceback" not in output + errors
    assert "byte 3" in errors
    assert not directory.prepared.exists()


def test_a_defect_is_an_event_and_a_traceback(tmp_path: Path, spec_for: Any, run: Any, monkeypatch: Any) -> None:
    from engine.data import __main__ as entry
    from engine.data import prepare as room

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(room, "open_source", broken)
    directory = run(spec_for(_stories(tmp_path)))
    assert entry.main(["--run-dir", str(directory.path)]) == 1
    failure = EventReader(directory.events_of("data")).read_all()[-1]
    assert isinstance(failure, Failure)
    assert (failure.exception, failure.message) == ("ZeroDivisionError", "a defect")


def test_no_workers_at_all_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.data import __main__ as entry

    with pytest.raises(SystemExit, match="2"):
        entry.main(["--spec", str(tmp_path / "spec.toml"), "--workers", "0"])
    assert "1 or more" in capsys.readouterr().err


def test_a_spec_file_gives_one_json_object(tmp_path: Path, spec_for: Any, command: Any, write_spec: Any) -> None:
    file = write_spec(spec_for(_stories(tmp_path), {"kind": "characters"}))
    output, _ = _finish(command("--spec", str(file), "--json", "--set", "data.max_documents=20"))
    result = json.loads(output)
    assert result["documents"] == 20
    assert result["tokens"] == result["train_tokens"] + result["validation_tokens"]
    assert result["unknown_rate"] == 0
    assert {"bytes", "vocabulary"} <= set(result)
    _, errors = _finish(command("--spec", str(file), "--set", "data.source=nowhere.txt"), code=1)
    assert "nowhere.txt" in errors
    assert "Traceback" not in errors
    output, _ = _finish(command("--spec", str(tmp_path / "no.toml"), "--json"), code=1)
    assert "no.toml" in json.loads(output)["error"]["title"] + output


def test_the_hub_without_a_network_says_so_soon(spec_for: Any, command: Any, write_spec: Any, tmp_path: Path) -> None:
    file = write_spec(spec_for("some-owner/some-name"))
    cache = {"HF_HOME": str(tmp_path / "hf")}
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}):
        began = time.monotonic()
        _, errors = _finish(command("--spec", str(file), env={**cache, **environment}), code=1)
        assert "some-owner/some-name" in errors
        assert "python-stdlib" in errors  # what to do instead
        assert "Traceback" not in errors
        assert time.monotonic() - began < 30


@pytest.mark.slow
def test_killed_it_goes_on_with_what_is_finished(
    corpus: Path, spec_for: Any, given: Any, command: Any, write_spec: Any, home: Path
) -> None:
    file = write_spec(spec_for(corpus, given))
    process = command("--spec", str(file))
    _wait_for(lambda: list(home.glob("data/building-*/parts/*.json")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (parts,) = home.glob("data/building-*/parts")
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*.tokens")}
    assert finished
    (parts / "000099.tokens.1").write_bytes(b"half done")
    process = command("--spec", str(file), "--json")
    _wait_for(lambda: len(list(parts.glob("*.json"))) > len(finished), process)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # used, not made again
    resumed = json.loads(_finish(process)[0])
    whole = json.loads(_finish(command("--spec", str(file), "--json", env={"TRAINDECK_HOME": f"{home}-2"}))[0])
    for name in ("train.bin", "validation.bin", "tokenizer.json"):
        assert Path(resumed["directory"], name).read_bytes() == Path(whole["directory"], name).read_bytes(), name
    assert not list(home.glob("data/building-*"))


@pytest.mark.slow
def test_killed_its_helpers_end_too(
    corpus: Path, spec_for: Any, given: Any, command: Any, write_spec: Any, home: Path
) -> None:
    process = command("--spec", str(write_spec(spec_for(corpus, given))), "--workers", "3")
    _wait_for(lambda: list(home.glob("data/building-*/parts/*.tokens.*")), process)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 3
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_at_once_prepare_it_once(
    corpus: Path, spec_for: Any, given: Any, command: Any, run: Any, home: Path
) -> None:
    spec = spec_for(corpus, given)
    first, second = (RunDirectory(corpus.parent / "runs" / name) for name in ("first", "second"))
    for directory in (first, second):
        directory.path.mkdir(parents=True)
        directory.spec.write_text(dump_spec(spec))
    processes = [command("--run-dir", str(directory.path)) for directory in (first, second)]
    for process in processes:
        _finish(process)
    events = [EventReader(directory.events_of("data")).read_all() for directory in (first, second)]
    ready = [found[-1] for found in events]
    assert sorted(event.cached for event in ready) == [False, True]  # type: ignore[union-attr]
    worked = [any(isinstance(event, Progress) and event.what == "tokenizing" for event in found) for found in events]
    assert sorted(worked) == [False, True]
    assert read_prepared(first).folder == read_prepared(second).folder
    assert len(list(home.glob("data/*/manifest.json"))) == 1


def test_a_full_disk_is_said_and_leaves_nothing(
    corpus: Path, spec_for: Any, command: Any, write_spec: Any, home: Path
) -> None:
    # A limit on the size of files is met like a full disk, and needs no disk of its own.
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    file = write_spec(spec_for(corpus))
    _, errors = _finish(command("--spec", str(file), preexec_fn=small_disk), code=1)
    assert errors.splitlines()[-2].startswith("The disk is full")
    assert "Traceback" not in errors
    assert [path.name for path in (home / "data").iterdir()] == ["locks"]


@pytest.mark.slow
def test_a_helper_that_dies_is_reported(
    corpus: Path, spec_for: Any, given: Any, command: Any, write_spec: Any, home: Path
) -> None:
    process = command("--spec", str(write_spec(spec_for(corpus, given))))
    _wait_for(lambda: list(home.glob("data/building-*/parts/*.tokens.*")), process)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(child, signal.SIGKILL)
    _, errors = _finish(process, code=1)
    assert "signal 9" in errors
    assert "memory" in errors
    assert "Traceback" not in errors


def test_a_folder_without_a_run_is_left_alone(tmp_path: Path, command: Any) -> None:
    folder = tmp_path / "holiday"
    _, errors = _finish(command("--run-dir", str(folder)), code=1)
    assert str(folder) in errors
    assert not folder.exists()
