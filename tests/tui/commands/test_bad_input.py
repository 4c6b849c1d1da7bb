"""What people get wrong, on the command line: the thing and the remedy are named, and nothing is damaged."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs.home import runs_folder

Call = Callable[..., Any]
STEPS = ["--set", "budget.max_steps=3"]


@pytest.mark.parametrize(
    ("override", "field", "said"),
    [
        ("data.source=/nowhere/at/all.txt", "data.source", "there is no file or folder '/nowhere/at/all.txt'"),
        ("model.heads=5", "model.heads", "does not divide into 5 heads (choose heads from 1, 2"),
        ("model.layers=0", "model.layers", "must be at least 1, not 0"),
        ("model.hidden=-8", "model.hidden", "must be at least 1, not -8"),
        ("data.sequence_length=0", "data.sequence_length", "must be at least 2, not 0"),
        ("optim.batch_size=-1", "optim.batch_size", "must be at least 1, not -1"),
        ("layout.devices=4096", "layout.devices", "4096 devices are asked for, and this machine has"),
        ("model.vocabulary=100", "model.vocabulary", "100 is smaller than the tokenizer's 4096"),
        ("tokenizer.vocabulary=10", "tokenizer.vocabulary", "must be at least 260"),
        ("model.preset=llama-3", "model.preset", "did you mean 'llama-3"),
        ("optim.batchsize=1", "optim.batchsize", "there is no such field (did you mean 'optim.batch_size'?)"),
        ("optim.lr", "--set", "'optim.lr' is not of the form a.b=c (e.g. optim.lr=3e-4)"),
        ("optim.lr=fast", "optim.lr", "'fast' does not fit"),
        ("budget.max_seconds=none", "budget.max_steps", "nothing says when to stop"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "train"])
def test_wrong_field(call: Call, command: str, override: str, field: str, said: str) -> None:
    done = call(command, "quickstart", "--set", override)
    assert done.code == 2
    assert done.out == ""
    line = next(line for line in done.err.splitlines() if line.startswith(f"  {field}: "))
    assert said in line
    assert not list(runs_folder().iterdir())


def test_all_problems_at_once(call: Call) -> None:
    done = call("train", "quickstart", "--set", "optim.lr=0", "--set", "model.heads=5", "--set", "seed=-1")
    assert done.code == 2
    assert done.err.startswith("error: 3 problems in quickstart\n")


def test_model_that_cannot_fit(call: Call) -> None:
    planned = call("plan", "llama-1b", "--set", "model.preset=llama-405b")
    assert planned.code == 1
    assert "NO: needs" in planned.out
    assert "! model.preset: needs" in planned.out
    started = call("train", "llama-1b", "--set", "model.preset=llama-405b", "--detach")
    assert started.code == 1
    assert "error: It does not fit" in started.err
    assert "available" in started.err
    assert "--force" in started.err
    assert not list(runs_folder().iterdir())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "is empty"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "PNG"),
        ("latin1.txt", "caf\xe9 ".encode("latin-1") * 500, "UTF-8"),
        ("utf16.txt", "text\n".encode("utf-16") * 500, "iconv"),
        ("other.jsonl", b'{"a": 1, "b": 2}\n' * 100, "field"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": \n' * 50, "JSON"),
    ],
)
def test_data_that_cannot_be_read(command: Call, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    done = command("data", "quickstart", "--set", f"data.source={path}")
    assert done.code in (1, 2)
    assert done.out == ""
    assert "error: " in done.err
    assert name in done.err
    assert said in done.err
    assert path.read_bytes() == content


def test_text_field_that_is_not_there(command: Call, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"body": "some text that is long enough"}\n' * 200)
    done = command("data", "quickstart", "--set", f"data.source={path}", "--set", "data.text_field=content")
    assert done.code == 1
    assert "'content'" in done.err
    assert "body" in done.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"optim = {lr = \n", "this is not TOML"),
        (b'name = "caf\xe9"\n', "is not UTF-8"),
        (b"[optim]\nlearning_rat = 1\n", "did you mean"),
        (b"optim = 3\n", "optim: must be a table"),
    ],
)
def test_broken_spec_file(call: Call, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(content)
    for command in ("plan", "train", "data"):
        done = call(command, str(path))
        assert done.code == 2
        assert str(path) in done.err
        assert said in done.err


def test_missing_file_and_unknown_profile(call: Call) -> None:
    missing = call("train", "nowhere.toml")
    assert missing.code == 2
    assert "nowhere.toml" in missing.err
    unknown = call("train", "quickstat")
    assert unknown.code == 2
    assert "did you mean 'quickstart'?" in unknown.err


def test_broken_profile_is_named_and_can_be_deleted(call: Call, home: Path) -> None:
    assert call("profiles", "save", "mine", "quickstart").code == 0
    registry = home / "registry.json"
    registry.write_text(registry.read_text().replace("[optim]", "[optim"))
    listed = call("profiles")
    assert listed.code == 0
    assert "mine" in listed.out
    assert "not TOML" in listed.out
    used = call("train", "mine")
    assert used.code == 2
    assert "The profile 'mine' is broken" in used.err
    assert call("profiles", "delete", "mine", "--yes").code == 0
    assert "mine" not in call("profiles").out


def test_two_profiles_of_one_name(call: Call, home: Path) -> None:
    call("profiles", "save", "mine", "quickstart")
    registry = home / "registry.json"
    content = json.loads(registry.read_text())
    table = content["profiles"]
    table["99"] = dict(next(iter(table.values())))
    registry.write_text(json.dumps(content))
    done = call("train", "mine")
    assert done.code == 2
    assert "2 profiles are called 'mine'" in done.err
    assert "traindeck profiles rename" in done.err
    assert call("profiles", "rename", "mine", "other").code == 0
    assert call("plan", "mine").code in (0, 1)
    again = call("profiles", "save", "other", "lstm")
    assert again.code == 2
    assert "The name is taken" in again.err
    assert "llama-1m" in call("profiles", "show", "other").out


def test_shipped_profiles_cannot_be_changed(call: Call) -> None:
    for arguments in (["rename", "lstm", "mine"], ["delete", "lstm", "--yes"], ["save", "lstm", "quickstart"]):
        done = call("profiles", *arguments)
        assert done.code == 2
        assert "Shipped profiles cannot be changed" in done.err


def test_bad_profile_name_stays_out_of_other_folders(call: Call) -> None:
    done = call("profiles", "save", "folder/../../evil", "quickstart")
    assert done.code == 2
    assert "made of letters" in done.err


def test_directory_that_is_not_a_run(call: Call, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "diary.txt").write_text("mine")
    for arguments in (["status"], ["attach", "--once"], ["logs"], ["stop"], ["resume"], ["delete", "--yes"], ["eval"]):
        done = call(*arguments, str(foreign))
        assert done.code == 1
        assert "Not a Traindeck run" in done.err
        assert str(foreign) in done.err
    assert (foreign / "diary.txt").read_text() == "mine"


def test_home_that_cannot_be_used(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    done = call("runs", TRAINDECK_HOME=str(file))
    assert done.code == 1
    assert "is a file, and a folder is needed" in done.err
    assert "Set TRAINDECK_HOME" in done.err
    assert "is a file" in call("doctor", TRAINDECK_HOME=str(file)).out


def full_disk() -> None:
    """No file may grow beyond 64 bytes: what a full disk looks like to those who write."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


def test_full_disk_starts_nothing_and_leaves_nothing(command: Call, call: Call, home: Path) -> None:
    assert call("profiles", "save", "mine", "quickstart").code == 0
    before = (home / "registry.json").read_bytes()
    started = command("train", "quickstart", "--detach", *STEPS, limit=full_disk)
    assert started.code == 1
    assert "The run was not created" in started.err
    assert "TRAINDECK_HOME" in started.err
    saved = command("profiles", "save", "other", "lstm", limit=full_disk)
    assert saved.code == 1
    assert saved.err.startswith("error: ")
    assert (home / "registry.json").read_bytes() == before
    assert call("runs", "--json").json == {"runs": []}


def test_names_with_escape_sequences_are_shown_harmless(call: Call) -> None:
    done = call("train", "\x1b[2Jquickstart")
    assert done.code == 2
    assert "\x1b" not in done.err + done.out
