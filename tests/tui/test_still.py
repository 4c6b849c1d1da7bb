"""Still pictures for terminals and logs."""

from pathlib import Path

import pytest

from engine.contract.events import Train
from tests.tui.recorded import recorded_run
from tui.follow import RunFollower
from tui.state import RunView
from tui.still import still_chart, still_charts, thinned


def viewed(tmp_path: Path, steps: int = 400) -> RunView:
    view = RunView()
    for source, event in RunFollower(recorded_run(tmp_path, steps=steps)).read():
        view.apply(event, source)
    return view


def test_both_curves_with_values_and_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "0")
    picture = still_charts(viewed(tmp_path), width=80, height=12)
    assert "\x1b" not in picture
    assert all(len(line) <= 80 for line in picture.splitlines())
    for words in ("loss by step", "train 2.260", "◆ validation 2.360", "perplexity by step", "1000", "400"):
        assert words in picture, words
    curve = [
        line
        for line in picture.split("perplexity")[0].splitlines()
        if any("\u2801" <= sign <= "\u28ff" for sign in line)
    ]
    assert len(curve) > 5


def test_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDECK_ASCII", "1")
    picture = still_charts(viewed(tmp_path), width=60)
    assert picture.isascii()
    assert "*" in picture
    assert "o" in picture


def test_colour_only_where_asked_for(tmp_path: Path) -> None:
    assert "\x1b[" in still_chart(viewed(tmp_path), "loss", width=60, height=10, colour=True)


def test_without_measurements() -> None:
    assert still_charts(RunView()) == "loss: no measurements yet\n\nperplexity: no measurements yet"


def test_one_point_is_a_picture_too(tmp_path: Path) -> None:
    assert "train" in still_charts(viewed(tmp_path, steps=1), width=60)


def test_thinning_keeps_extremes() -> None:
    view = RunView()
    for step in range(1, 5001):
        view.apply(Train(
            step=step, loss=99.0 if step == 3333 else 1.0, lr=1.0, grad_norm=None, tokens=step, samples=step,
            tokens_per_second=1.0, step_seconds=1.0, elapsed_seconds=float(step),
        ))  # fmt: skip
    xs, ys = thinned(view.series["train_loss"], "step", 5000.0, 100)
    assert max(ys) == 99.0
    assert len(xs) <= 200
