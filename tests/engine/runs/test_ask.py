from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.contract.errors import TraindeckError
from engine.contract.plan import read_plan
from engine.contract.rundir import RunDirectory
from engine.runs.ask import ask_engine
from tests.fake_nvml.fixture import build, use_here


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module ``asked`` that runs its first argument."""
    (tmp_path / "asked.py").write_text("import sys, json, time\nexec(sys.argv[1])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def _ask(code: str, timeout: float = 60.0) -> object:
    return ask_engine("asked", [code, "--json"], timeout)


def test_the_answer_is_an_object() -> None:
    assert _ask("print(json.dumps({'loss': 1.5, 'arguments': sys.argv[2:]}))") == {
        "loss": 1.5,
        "arguments": ["--json"],
    }


def test_errors_keep_their_words() -> None:
    error = {"error": {"title": "No checkpoint", "message": "there is none", "hint": "train first"}}
    with pytest.raises(TraindeckError) as caught:
        _ask(f"print(json.dumps({error!r})); sys.exit(1)")
    assert (caught.value.title, caught.value.message, caught.value.hint) == tuple(error["error"].values())


def test_failures_without_words_show_the_last_lines() -> None:
    with pytest.raises(TraindeckError, match="ValueError: bad") as caught:
        _ask("raise ValueError('bad\\x1b[31m')")
    assert "\x1b" not in caught.value.message
    with pytest.raises(TraindeckError, match="exit code 3"):
        _ask("sys.exit(3)")
    with pytest.raises(TraindeckError, match="no JSON object"):
        _ask("print('hello')")
    with pytest.raises(TraindeckError, match="no JSON object"):
        _ask('sys.stdout.buffer.write(b\'{"a": "\\xff"}\')')
    with pytest.raises(TraindeckError, match="exit code 3"):
        _ask('sys.stdout.buffer.write(b\'{"a": "\\xff"}\'); sys.exit(3)')


def test_too_long_is_too_long() -> None:
    with pytest.raises(TraindeckError, match="over 1 seconds"):
        _ask("time.sleep(1000)", timeout=1.0)


def test_progress_comes_line_by_line() -> None:
    lines: list[str] = []
    code = "print('one', file=sys.stderr); print(' 5%\\r 9%', file=sys.stderr); print('{}')"
    assert ask_engine("asked", [code], 60.0, lines.append) == {}
    assert lines == ["one", " 9%"]


def test_real_question_about_data(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"document number {n}\n\n" for n in range(500)))
    (tmp_path / "spec.toml").write_text(
        f'[data]\nsource = "{tmp_path}/text.txt"\nsequence_length = 16\n[tokenizer]\nkind = "bytes"\n'
    )
    answer = ask_engine("engine.data", ["--spec", str(tmp_path / "spec.toml"), "--json"], 120.0)
    assert answer["tokens"] == answer["train_tokens"] + answer["validation_tokens"] > 1000
    with pytest.raises(TraindeckError, match=r"missing\.toml"):
        ask_engine("engine.data", ["--spec", str(tmp_path / "missing.toml"), "--json"], 120.0)


SEEN = "import os; print(json.dumps({'seen': os.environ.get('CUDA_VISIBLE_DEVICES')}))"


def test_a_question_about_a_run_goes_to_its_own_device(
    new_run: Callable[[], RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    use_here(build(tmp_path / "nvml"), monkeypatch, gpus=4)
    run = new_run()
    ask = [SEEN, "--run-dir", str(run.path)]
    assert ask_engine("asked", ask, 60.0) == {"seen": None}, "on the CPU there is none"
    plan = read_plan(run)
    assert plan is not None
    for indices, seen in (((2, 3), "2"), ((7,), None)):
        layout = msgspec.structs.replace(plan.layout, accelerator="cuda", device_indices=indices)
        run.plan.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, layout=layout)))
        assert ask_engine("asked", ask, 60.0) == {"seen": seen}, "a device that is not there is not asked for"
    given = {"CUDA_VISIBLE_DEVICES": "1"}
    assert ask_engine("asked", ask, 60.0, environment=given) == {"seen": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,0")
    layout = msgspec.structs.replace(plan.layout, accelerator="cuda", device_indices=(1,))
    run.plan.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, layout=layout)))
    seen_uuid = ask_engine("asked", ask, 60.0)["seen"]
    assert seen_uuid.startswith("GPU-00000001")
