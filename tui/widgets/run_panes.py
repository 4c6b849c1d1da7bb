"""The panes of the monitor that are made of numbers: the run's header, its figures, its devices, its preparation."""

from __future__ import annotations

from collections.abc import Sequence

from engine.contract.events import Progress
from tui.host_devices import HostDevices
from tui.mesh import mesh_rows, mesh_words, seats_of, sizes_of
from tui.state import RunView
from tui.summary import data_summary, layout_summary, memory_levers, model_summary
from tui.text import (
    UNKNOWN,
    cell_width,
    human_bytes,
    human_count,
    human_duration,
    human_fraction,
    human_number,
    printable,
    reason_words,
    state_symbol,
)
from tui.widgets.device_rows import device_rows
from tui.widgets.glyphs import Glyphs, bar, state_tone
from tui.widgets.painted import Painted, Row, fit_row, row_width, spread


class RunPane(Painted):
    """A pane that shows a :class:`RunView`; the screen sets ``view`` and calls ``repaint`` when it changed."""

    def __init__(self, view: RunView, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.view = view


class RunHeader(RunPane):
    """Two lines: what this is and how it is; how far, and how long still."""

    DEFAULT_CSS = "RunHeader { dock: top; height: 2; background: $panel; }"
    framed = False

    def content(self, width: int, height: int) -> Sequence[Row]:
        view, signs = self.view, self.signs
        state = view.state
        words = ""
        shown = state_symbol(state, ascii_only=signs.is_ascii) + " " + state
        name = printable(view.info.name, newlines=False) if view.info else ""
        left: Row = [(" ", ""), (shown, state_tone(state)), ("  ", ""), (name, "strong")]
        about = [] if view.spec is None else [model_summary(view.spec), data_summary(view.spec)]
        if view.layout is not None:
            about.append(layout_summary(view.layout))
        right: Row = [] if view.started is None else [("  step ", "label"), (_steps(view), "strong"), (" ", "")]
        room = width - row_width(left) - row_width(right) - 2
        while about and cell_width(words := f" {signs.dot} ".join(about)) > room:
            about.pop()
        left.append(("  " + words if about else "", "label"))
        return [spread(left, right, width), self._second(width)]

    def _second(self, width: int) -> Row:
        view, signs = self.view, self.signs
        if view.is_preparing or view.started is None:
            reason = printable(reason_words(view.state, view.reason), newlines=False)
            return [(f" {reason}" if reason else " preparing" if view.is_preparing else "", "label")]
        fraction = view.done_fraction()
        eta = view.eta_seconds()
        of = f" of the {word}" if (word := view.budget_word()) in {"tokens", "time"} else ""
        if view.is_live:
            tail: Row = [("  ", ""), (human_fraction(fraction), "value"), (f"{of}   ETA ", "label")]
            tail += [(human_duration(eta), "strong" if eta is not None else "label"), (" ", "")]
        else:
            reason = printable(reason_words(view.state, view.reason), newlines=False)
            took = human_duration(view.elapsed_seconds)
            tail = [("  ", ""), (human_fraction(fraction), "value"), (f"   trained {took}", "label"), (" ", "")]
            if reason and row_width(tail) + cell_width(reason) + 40 < width:
                tail.insert(0, (f"  {reason}", "label"))
        filled, rest = bar(fraction, max(4, width - row_width(tail) - 1), signs)
        return [(" ", ""), (filled, "bar"), (rest, "bar-rest"), *tail]


def _steps(view: RunView) -> str:
    return f"{view.step:,} / {view.max_steps:,}" if view.max_steps is not None else f"{view.step:,}"


class Figures(RunPane, can_focus=True):
    """The run in numbers, the most wanted first."""

    def heading(self) -> Row:
        return [("training", "title")]

    def content(self, width: int, height: int) -> Sequence[Row]:
        return [
            spread([(name, "label")], [(" ", ""), (value, "label" if value == UNKNOWN else style)], width)
            for name, value, style in figures(self.view)[:height]
        ]


def figures(view: RunView) -> list[tuple[str, str, str]]:
    """``(name, value, style)`` of every number, unknown ones as ``n/a``."""
    train, last, best, begun = view.train, view.validation, view.best_validation, view.started
    checkpoint = view.checkpoint
    tokens = human_count(view.tokens) + (f" / {human_count(begun.max_tokens)}" if begun and begun.max_tokens else "")
    rows = [
        ("tokens/s", human_count(view.tokens_per_second if view.is_live or train else None), "strong"),
        ("ETA", human_duration(view.eta_seconds()), "value"),
        ("trained", human_duration(view.elapsed_seconds), "value"),
        ("tokens", tokens if train else UNKNOWN, "value"),
        ("train loss", human_number(train.loss) if train else UNKNOWN, "train"),
        ("validation loss", human_number(last.loss) if last else UNKNOWN, "validation"),
        ("best validation", f"{human_number(best.loss)} @ {best.step or 0:,}" if best else UNKNOWN, "value"),
        ("learning rate", scientific(train.lr) if train else UNKNOWN, "value"),
        ("gradient norm", human_number(train.grad_norm, 3) if train else UNKNOWN, "value"),
        ("step time", _milliseconds(train.step_seconds) if train else UNKNOWN, "value"),
        ("checkpoint", printable(checkpoint.name, newlines=False) if checkpoint else UNKNOWN, "value"),
        ("parameters", human_count(begun.parameters) if begun else UNKNOWN, "value"),
        ("batch", _batch(view), "value"),
        ("bits per byte", human_number(last.bits_per_byte, 3) if last else UNKNOWN, "value"),
        ("layout", _layout(view), "value"),
        ("devices", f"{begun.world_size} x {begun.accelerator}, {begun.precision}" if begun else UNKNOWN, "value"),
        ("optimiser", begun.optimiser if begun else UNKNOWN, "value"),
        ("cut loose with", view.detached.how if view.detached else UNKNOWN, "value"),
        ("checkpoints kept", str(len(view.checkpoints)) if view.checkpoints else UNKNOWN, "value"),
    ]
    return [(name, printable(value, newlines=False), style) for name, value, style in rows]


def _layout(view: RunView) -> str:
    layout = view.layout
    if layout is None:
        return UNKNOWN
    return mesh_words(layout) if len(sizes_of(layout)) > 1 else layout.strategy


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def scientific(value: float) -> str:
    """A learning rate as people write it: ``3.00e-4``."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _batch(view: RunView) -> str:
    begun = view.started
    return UNKNOWN if begun is None else f"{begun.batch_size} x {begun.sequence_length}"


class DevicePane(RunPane, can_focus=True):
    """The devices of the run, and its processes on them."""

    def heading(self) -> Row:
        return [("devices", "title")]

    def aside(self, room: int) -> Row:
        del room
        hosts = [printable(host.host, newlines=False) for host in self.view.hosts.values() if host.host]
        return [(hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts", "label")] if hosts else []

    def content(self, width: int, height: int) -> Sequence[Row]:
        view = self.view
        hosts = list(view.hosts.values()) or [HostDevices()]
        rows: list[Row] = []
        for number, host in enumerate(hosts):
            room = (height - len(rows)) // (len(hosts) - number)
            if len(hosts) > 1:
                rows.append([(printable(host.host or UNKNOWN, newlines=False), "title")])
                room -= 1
            past = host.history if view.is_live else {}
            seats = seats_of(view.layout, host.host)
            rows += device_rows(host.devices(live=view.is_live), past, width, max(1, room), self.signs, seats)
        return [*rows, *self._mesh(width, height - len(rows))]

    def _mesh(self, width: int, room: int) -> list[Row]:
        """Which rank sits where, in what room is left below the devices."""
        layout = self.view.layout
        mesh = mesh_rows(layout, width, room - 2, self.signs) if layout is not None and room > 3 else []
        if layout is None or not mesh:
            return []
        return [[], fit_row([("mesh", "title"), (f"  {memory_levers(layout)}", "label")], width), *mesh]


class Preparation(RunPane):
    """What is done before the first step: the stages of the data, with their bars."""

    def heading(self) -> Row:
        return [("preparing", "title")]

    def content(self, width: int, height: int) -> Sequence[Row]:
        view, signs = self.view, self.signs
        room = max(10, width - 4)
        rows: list[Row] = []
        stages = list(view.stages.values())
        for number, stage in enumerate(stages):
            done = number < len(stages) - 1 or view.data is not None
            rows += [*_stage(stage, done, room, signs), []]
        if view.data is not None:
            data = view.data
            rows.append([(f"{signs.done} ", "good"), (f"{data.train_tokens:,} tokens of {human_bytes(data.bytes)} in "
                                                     f"{data.documents:,} documents", "text")])  # fmt: skip
            rows.append([(f"{signs.active} ", "accent"), ("starting the training processes", "text")])
        if not rows:
            rows.append([(f"{signs.active} ", "accent"), ("starting", "text")])
        above = max(0, (height - len(rows)) // 2)
        return [[]] * above + [[("  ", ""), *fit_row(row, room)] for row in rows]


def _stage(stage: Progress, done: bool, width: int, signs: Glyphs) -> list[Row]:
    what = printable(stage.what, newlines=False)
    count = human_bytes if stage.unit == "bytes" else human_count
    total = f" / {count(stage.total)}" if stage.total else ""
    unit = f" {printable(stage.unit, newlines=False)}" if stage.unit and count is human_count else ""
    counted = f"{count(stage.done)}{total}{unit}" if stage.done or stage.total else ""
    mark = (f"{signs.done} ", "good") if done else (f"{signs.active} ", "accent")
    head = spread([mark, (what, "label" if done else "strong")], [(f"  {counted}", "label")], width)
    if done:
        return [head]
    fraction = stage.done / stage.total if stage.total else None
    filled, rest = bar(fraction, max(4, width - 9), signs)
    return [head, [("  ", ""), (filled, "bar"), (rest, "bar-rest"), (f" {human_fraction(fraction):>5}", "value")]]
