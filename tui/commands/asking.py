"""``data generate eval export``: what a short-lived process of the engine answers, so that torch stays there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.contract.check import require
from engine.contract.specfile import dump_spec
from engine.runs.ask import ask_engine
from engine.runs.status import find_run
from tui.commands.output import emit, note, say
from tui.commands.specs import chosen_spec
from tui.text import human_bytes, human_count, human_number, pairs, printable

DATA_SECONDS = 24 * 3600.0
MODEL_SECONDS = 4 * 3600.0


def data(name_or_path: str, sets: list[str], *, force: bool, as_json: bool) -> None:
    """Prepare the data that a spec names, as a training would, and show its sizes."""
    spec = chosen_spec(name_or_path, sets)
    require(spec, origin=name_or_path)
    with tempfile.TemporaryDirectory(prefix="traindeck-") as folder:
        path = Path(folder, "spec.toml")
        path.write_text(dump_spec(spec), encoding="utf-8")
        arguments = ["--spec", str(path), "--json", *(["--force"] if force else [])]
        answer = ask_engine("engine.data", arguments, DATA_SECONDS, progress=_tell)
    if as_json:
        emit(answer)
        return
    counts = ("documents", "tokens", "vocabulary", "train_tokens", "validation_tokens")
    items = [("source", spec.data.source), ("bytes", human_bytes(answer.get("bytes")))]
    items += [(field.replace("_", " "), _count(answer.get(field))) for field in counts]
    rate = answer.get("unknown_rate")
    items.append(("unknown rate", "n/a" if rate is None else f"{rate:.4%}"))
    say(pairs(items))


def generate(
    name: str, *, prompt: str, tokens: int, temperature: float, top_k: int, seed: int, checkpoint: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Text written by a checkpoint of a run, after its prompt."""
    # The prompt in one argument: it may begin with a dash.
    arguments = [f"--prompt={prompt}", "--tokens", str(tokens), "--temperature", str(temperature), "--seed", str(seed)]
    arguments += ["--top-k", str(top_k)] if top_k else []
    answer = _ask_trained("complete", name, checkpoint, arguments)
    if as_json:
        emit(answer)
    else:
        say(printable(prompt + str(answer["text"])))


def evaluate(name: str, checkpoint: str | None, *, as_json: bool) -> None:
    """Loss, perplexity and bits per byte of a run's model on its whole validation set."""
    answer = _ask_trained("evaluate", name, checkpoint)
    if as_json:
        emit(answer)
        return
    fields = ("loss", "perplexity", "bits_per_byte")
    items = [(field.replace("_", " "), human_number(answer.get(field))) for field in fields]
    items += [("tokens", human_count(answer.get("tokens"))), ("checkpoint", str(answer.get("checkpoint", "n/a")))]
    say(pairs(items))


def export(name: str, checkpoint: str | None, *, as_json: bool) -> None:
    """A checkpoint of a run as a Hugging Face folder."""
    answer = _ask_trained("export", name, checkpoint)
    if as_json:
        emit(answer)
    else:
        say(printable(str(answer["directory"])))


def _ask_trained(question: str, name: str, checkpoint: str | None, arguments: Sequence[str] = ()) -> dict[str, Any]:
    run = find_run(name)
    if sys.stderr.isatty():
        note(f"loading the model of {printable(run.id, newlines=False)} ...")
    chosen = ["--checkpoint", checkpoint] if checkpoint else []
    asked = ["--run-dir", str(run.path), "--json", *chosen, *arguments]
    answer: dict[str, Any] = ask_engine(f"engine.training.{question}", asked, MODEL_SECONDS)
    return answer


def _tell(line: str) -> None:
    note(printable(line))


def _count(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"
