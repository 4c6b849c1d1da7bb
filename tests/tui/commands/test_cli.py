"""The command as such: help, exit codes, what it loads, pipes, versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMANDS = [
    "demo",
    "train",
    "plan",
    "runs",
    "status",
    "attach",
    "logs",
    "stop",
    "pause",
    "resume",
    "checkpoint",
    "delete",
    "devices",
    "hosts",
    "presets",
    "strategies",
    "data",
    "generate",
    "eval",
    "export",
    "doctor",
    "version",
    "profiles",
]
FOREIGN = {"torch", "lightning", "textual", "numpy", "transformers", "datasets", "pyarrow", "tokenizers", "plotext"}

PROBE = """
import json, sys
sys.argv[0] = "traindeck"
from tui.cli import main
try:
    main()
except SystemExit as ended:
    print(json.dumps([ended.code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


def test_help_names_every_command_and_exit_code(call: Callable[..., Any]) -> None:
    done = call("--help")
    assert done.code == 0
    assert done.err == ""
    for name in COMMANDS:
        assert f"\n  {name} " in done.out, name
    for code in ("0    done", "1    failed", "2    the command line", "cannot tell whether it fits", "TRAINDECK_HOME"):
        assert code in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_whose_first_line_fits_the_list(call: Callable[..., Any], name: str) -> None:
    done = call(name, "--help")
    assert done.code == 0
    assert f"traindeck {name}" in done.out
    listed = next(line for line in call("--help").out.splitlines() if line.startswith(f"  {name} "))
    assert not listed.endswith("...")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["version"], ["runs"], ["profiles"], ["devices"], ["presets"], ["train", "quickstart", "--dry-run"]],
)
def test_cheap_commands_load_nothing_expensive(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code in (0, None), done.stderr
    assert not FOREIGN & set(modules)
    assert done.stdout or "no runs yet" in done.stderr


def test_version_is_that_of_the_package(call: Callable[..., Any]) -> None:
    expected = f"traindeck {importlib.metadata.version('traindeck')}\n"
    assert call("version").out == call("--version").out == expected


def test_without_a_terminal_the_app_says_what_to_do(command: Callable[..., Any]) -> None:
    done = command()
    assert done.code == 1
    assert done.out == ""
    assert "error: The app needs a terminal" in done.err
    assert "traindeck --help" in done.err


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tui.cli", "presets"], stdout=writing, stderr=subprocess.PIPE, check=False,
        timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


def test_output_without_unicode_replaces_signs(command: Callable[..., Any], ended_run: Any) -> None:
    done = command("runs", PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert "+ finished" in done.out
    wished = command("runs", TRAINDECK_ASCII="1")
    assert "+ finished" in wished.out
    assert "✓ finished" in command("runs").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["train"], "Missing argument"),
        (["train", "quickstart", "--nonsense"], "No such option"),
        (["generate", "latest", "--tokens", "0"], "--tokens"),
        (["logs", "--lines", "many"], "--lines"),
    ],
)
def test_wrong_usage_is_exit_code_2(call: Callable[..., Any], arguments: list[str], said: str) -> None:
    done = call(*arguments)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_with_json_an_error_is_also_an_object(call: Callable[..., Any]) -> None:
    done = call("plan", "quickstart", "--set", "optim.lr=0", "--set", "model.heads=5", "--json")
    assert done.code == 2
    problems = done.json["error"]["problems"]
    assert {problem["field"] for problem in problems} == {"optim.lr", "model.heads"}
    assert "optim.lr: must be above 0" in done.err
    missing = call("status", "nothing", "--json")
    assert missing.code == 1
    assert missing.json["error"]["title"] == "There is no run yet"
    assert missing.json["error"]["problems"] == []


def test_a_defect_is_told_without_a_traceback(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr("tui.commands.opening.version", broken)
    done = call("version")
    assert done.code == 1
    assert "An error inside Traindeck" in done.err
    assert "KeyError" in done.err


def test_environment_overrides_stand_between_file_and_flags(call: Callable[..., Any]) -> None:
    environment = {"TRAINDECK_SET": "optim.lr=5e-4 seed=7"}
    done = call("train", "quickstart", "--dry-run", "--json", "--set", "seed=8", **environment)
    assert done.code == 0
    assert (done.json["spec"]["optim"]["lr"], done.json["spec"]["seed"]) == (5e-4, 8)
    unbalanced = call("plan", "quickstart", TRAINDECK_SET="name='a")
    assert unbalanced.code == 2
    assert "$TRAINDECK_SET" in unbalanced.err


def test_the_guide_names_every_command_and_no_other() -> None:
    guide = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    section = guide.partition("## Commands")[2].partition("## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {word.strip("`,").split()[0] for row in rows for word in row.split(", ") if not word.strip().isdigit()}
    assert {name.strip("`") for name in named if not name[0].isdigit()} - {"traindeck"} == set(COMMANDS)


def test_the_length_of_a_training_names_every_limit(call: Callable[..., Any]) -> None:
    sets = ["--set", "budget.max_steps=10", "--set", "budget.max_epochs=2"]
    assert "10 steps (20.5 K tokens) or 2 epochs or 2 min 50 s of training" in call("plan", "quickstart", *sets).out


def test_opening_the_app_does_not_pay_for_the_commands() -> None:
    probe = "import sys, tui.cli, tui.commands.opening, tui.commands.output; print('typer' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
