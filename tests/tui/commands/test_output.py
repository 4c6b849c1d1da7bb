"""What is printed where: any text, outputs that cannot be written, errors as objects, tables for programs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.contract.rundir import RunDirectory
from tui.text import reason_words

Call = Callable[..., Any]
FULL = Path("/dev/full")


def test_bytes_that_are_no_text_are_told_of(command: Call) -> None:
    done = command("plan", "quickstart", "--json", TRAINDECK_SET="\udcff=1")
    assert done.code == 2
    assert "\N{REPLACEMENT CHARACTER}" in str(done.json["error"])
    assert "error: " in done.err


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "arguments",
    [["presets", "--json"], ["presets"], ["runs"], ["--help"], ["status", "nothing", "--json"], ["train", "--json"]],
)  # fmt: skip
def test_output_that_cannot_be_written_is_one_line(ended_run: RunDirectory, arguments: list[str]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tui.cli", *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    assert done.stderr == "error: the output could not be written: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_with_no_output_at_all_the_exit_code_says_it() -> None:
    with FULL.open("w") as full:
        command = [sys.executable, "-P", "-m", "tui.cli", "version"]
        assert subprocess.run(command, stdout=full, stderr=full, check=False, timeout=60).returncode == 1


def test_closed_streams_are_no_defect() -> None:
    def done(arguments: str) -> subprocess.CompletedProcess[str]:
        line = f"exec {shlex.quote(sys.executable)} -P -m tui.cli {arguments}"
        return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)

    silent = done("version >&-")
    assert (silent.returncode, silent.stderr) == (0, "")
    failed = done("status nothing 2>&-")
    assert (failed.returncode, failed.stdout) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "said", "named"),
    [
        (["train", "--json"], "Missing argument", "traindeck train"),
        (["status", "--json"], "Missing argument", "traindeck status"),
        (["runs", "--json", "--bogus"], "--bogus", "traindeck runs"),
        (["runs", "--json", "--state", "happy"], "happy", "traindeck"),
        (["--bogus", "runs", "--json"], "--bogus", "traindeck"),
        (["nonsense", "--json"], "nonsense", "traindeck"),
        (["profiles", "show", "--json"], "Missing argument", "traindeck profiles show"),
    ],
)
def test_wrong_usage_is_an_object_too(call: Call, arguments: list[str], said: str, named: str) -> None:
    done = call(*arguments)
    assert done.code == 2
    error = done.json["error"]
    assert said in error["message"]
    assert error["hint"].startswith(f"See: {named}")
    assert error["problems"] == []
    assert said in done.err


def test_help_with_json_is_help(call: Call) -> None:
    done = call("train", "--json", "--help")
    assert done.code == 0
    assert "error" not in done.out


def test_a_shipped_profile_is_refused_before_anything_is_asked(call: Call) -> None:
    shipped = call("profiles", "delete", "quickstart")
    assert shipped.code == 2
    assert "Shipped profiles cannot be" in shipped.err
    assert "--yes" not in shipped.err
    assert "There is no such profile" in call("profiles", "delete", "nothing").err
    call("profiles", "save", "mine", "quickstart")
    assert "Add --yes" in call("profiles", "delete", "mine").err
    assert "mine" in call("profiles").out


def test_what_is_in_the_way_names_the_flag(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    call("profiles", "save", "mine", "quickstart")
    call("profiles", "export", "mine", str(file))
    for arguments in (["save", "mine", "lstm"], ["import", str(file)], ["export", "mine", str(file)]):
        done = call("profiles", *arguments)
        assert done.code == 2
        assert "--overwrite" in done.err
        assert call("profiles", *arguments, "--overwrite").code == 0
    assert "--overwrite" not in call("profiles", "save", "lstm", "mine").err


def test_reasons_are_words() -> None:
    assert reason_words("finished", "max_seconds") == "the time is used up"
    assert reason_words("finished", "max_steps") == "all steps are done"
    assert reason_words("finished", "max_tokens") == "all tokens are used"
    assert reason_words("finished", "max_epochs") == "all epochs are done"
    assert reason_words("finished", "stopped") == "stopped"
    assert reason_words("paused", "requested") == reason_words("running", "requested") == ""
    assert reason_words("failed", "max_steps") == "max_steps"


def test_reasons_stay_identifiers_for_programs(call: Call, ended_run: RunDirectory) -> None:
    assert call("status", ended_run.id, "--json").json["reason"] == "max_steps"


def test_nothing_is_cut_for_programs(call: Call, ended_run: RunDirectory) -> None:
    words = "a description " * 20 + "to its end"
    assert call("profiles", "save", "mine", "quickstart", "--set", f"description='{words}'").code == 0
    listed = call("profiles", "list").out
    assert words in listed
    presets = call("presets")
    assert "…" not in listed + presets.out
    sources = [preset["source"] for preset in call("presets", "--json").json["presets"] if preset["source"]]
    assert all(source in presets.out for source in sources)
    assert "counted with the vocabulary in the table" in presets.err


@pytest.mark.slow
def test_loading_a_model_is_told_to_a_person(ended_run: RunDirectory) -> None:
    for terminal in (True, False):
        ours, theirs = os.openpty() if terminal else os.pipe()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tui.cli", "generate", ended_run.id], stdout=subprocess.DEVNULL, stderr=theirs,
            stdin=subprocess.DEVNULL, check=False, timeout=120,
        )  # fmt: skip
        said = os.read(ours, 65536).decode()
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 1  # there is no checkpoint
        assert ("loading the model" in said) is terminal
