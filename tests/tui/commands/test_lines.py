"""A training as lines of text."""

from __future__ import annotations

from engine.contract.events import (
    DataReady,
    Ended,
    Event,
    Failure,
    Notice,
    Progress,
    Sample,
    Started,
    State,
    Train,
    Validation,
)
from tui.commands.lines import ProgressLines
from tui.state import RunView


def train(step: int, time: float, loss: float | None = 4.0) -> Train:
    return Train(
        step=step, time=time, loss=loss, lr=3e-4, grad_norm=1.0, tokens=step * 512, samples=step * 8,
        tokens_per_second=12_345.0, step_seconds=0.1, elapsed_seconds=time,
    )  # fmt: skip


STARTED = Started(
    step=0, parameters=3_148_224, world_size=2, accelerator="cpu", device_names=("a\x1b[1m cpu", "a\x1b[1m cpu"),
    batch_size=8, micro_batch=4, accumulation=1, sequence_length=64, precision="fp32", optimiser="adamw", max_steps=40,
)  # fmt: skip


def lines_of(*events: Event) -> list[str]:
    """The lines without their time of day."""
    view = RunView()
    maker = ProgressLines(view)
    lines: list[str] = []
    for event in events:
        view.apply(event)  # type: ignore[arg-type]  # every event here is one of AnyEvent
        lines += [line[10:] for line in maker.of(event)]  # type: ignore[arg-type]  # likewise
    return lines


def test_training_is_told_every_two_seconds_and_at_the_end() -> None:
    lines = lines_of(State(state="running"), STARTED, *(train(step, step / 10) for step in range(1, 41)))
    assert lines[0] == (
        "start     from the start: 3.15 M parameters on 2 x cpu (a␛[1m cpu), 8 x 64 tokens a step, fp32"
    )
    steps = [line.split()[2] for line in lines[1:]]
    assert steps == ["1", "21", "40"]
    assert lines[1].startswith(
        "train     step 1 of 40  loss 4.000  perplexity 54.60  lr 3e-4  12.3 K tokens/s  1.6 s left"
    )


def test_unknown_numbers_are_not_zero() -> None:
    assert "loss n/a  perplexity n/a" in lines_of(train(1, 1.0, loss=None))[0]
    assert "perplexity n/a" in lines_of(train(1, 1.0, loss=1e6))[0]
    unknown = Validation(step=3, loss=None, perplexity=None, bits_per_byte=None, tokens=1, seconds=0.1)
    assert lines_of(unknown) == ["validate  step 3  loss n/a  perplexity n/a  bits per byte n/a"]


def test_preparation_is_told_once_a_second_and_at_each_new_stage() -> None:
    events = [
        Progress(time=float(n) / 4, what="tokenizing", done=n * 1024, total=8 * 1024, unit="bytes") for n in range(9)
    ]
    lines = lines_of(*events, Progress(time=2.1, what="writing", done=1, total=None, unit="files"))
    assert lines[0] == "data      tokenizing: 0 B of 8.0 KiB"
    assert lines[-2:] == ["data      tokenizing: 8.0 KiB of 8.0 KiB", "data      writing: 1 files"]
    assert len(lines) == 4
    ready = DataReady(
        directory="d", fingerprint="f", documents=3, bytes=9, vocabulary=4096, train_tokens=1_500_000,
        validation_tokens=30_000, unknown_rate=None, cached=True,
    )  # fmt: skip
    assert lines_of(ready) == [
        "data      prepared before: 1.50 M tokens to train on, 30.0 K to validate, vocabulary 4,096"
    ]


def test_samples_are_harmless_and_whole() -> None:
    lines = lines_of(Sample(step=5, prompt="def ", text="main():\n\x1b[2J\treturn 1\n"))
    assert lines == ["sample    step 5", "| def main():", "| ␛[2J    return 1"]


def test_failure_tells_what_to_do_and_where_nothing_is_known_the_log() -> None:
    known = Failure(title="Out of memory", message="on device 0", hint="smaller batches", rank=1, exception="E")
    assert lines_of(known) == ["failed    Out of memory (rank 1)", "on device 0", "smaller batches"]
    unknown = Failure(title="The worker died", message="", log_tail=tuple(f"l{n}\x07" for n in range(30)))
    assert lines_of(unknown) == ["failed    The worker died", *(f"| l{n}␇" for n in range(20, 30))]


def test_ends_and_notices() -> None:
    ended = Ended(step=40, reason="max_steps", tokens=20_480, elapsed_seconds=75.0)
    assert lines_of(ended) == ["end       all steps are done after 20.5 K tokens and 1 min 15 s of training"]
    assert lines_of(Notice(level="warning", message="disk is low")) == ["warning   disk is low"]
    assert lines_of(State(state="running"), State(state="paused", reason="asked")) == ["paused    asked"]
    assert lines_of(State(state="paused", reason="requested")) == ["paused"]
