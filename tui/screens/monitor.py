"""One run, live: its curves, its numbers, its devices, its texts; and what can be asked of it."""

# ruff: noqa: PLC0415 (what only an action needs is imported by the action)
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget

from engine.contract.events import CommandDone, Failure, Started
from engine.contract.rundir import RunDirectory
from engine.contract.states import ENDED, LIVE, TAKES, Action
from tui import feeds
from tui.actions import bindings
from tui.narrow import narrow
from tui.screens.frame import STOP_FIRST, DeckScreen
from tui.series import X_NAMES, X_WORDS, Derived, Series
from tui.state import RunView
from tui.text import printable
from tui.widgets.chart import Chart
from tui.widgets.frame import KeyBar
from tui.widgets.glyphs import glyphs
from tui.widgets.pages import Pages
from tui.widgets.painted import Painted
from tui.widgets.plot import Line
from tui.widgets.run_panes import DevicePane, Figures, Preparation, RunHeader

if TYPE_CHECKING:
    from tui.app import TraindeckApp

PANES = ("loss", "perplexity", "figures", "devices", "pages", "grad-norm", "speed")
"""By digit, from 1."""
_REQUESTED: dict[Action, str] = {
    "pause": "pausing at the end of this step",
    "resume": "going on",
    "stop": "stopping after a checkpoint",
    "checkpoint": "writing a checkpoint",
}
"""What is said at once to each request."""


class MonitorScreen(DeckScreen):
    """Watches one run until it is closed; the run does not notice."""

    PLACE = "monitor"
    BINDINGS: ClassVar[list[BindingType]] = bindings("monitor")
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - as Textual declares it
        (0, "-narrow"),
        (110, "-wide"),
        (160, "-huge"),
    ]
    DEFAULT_CSS = """
    MonitorScreen {
        #numbers { width: 30; }
        #figures { height: 14; }
        #loss { height: 4fr; }
        #second { height: 4fr; }
        #pages { height: 3fr; }
        #grad-norm, #speed { display: none; }
        #preparation { display: none; height: 8fr; }
        &.-wide #numbers, &.-huge #numbers { width: 40; }
        &.-wide #figures, &.-huge #figures { height: 17; }
        &.-wide #loss, &.-huge #loss { height: 5fr; }
        &.-wide #grad-norm, &.-huge #grad-norm, &.-huge #speed { display: block; }
        &.-preparing #preparation { display: block; }
        &.-preparing #loss, &.-preparing #second { display: none; }
        &.-failed #pages { height: 6fr; }
        &.-enlarged Painted { display: none !important; }
        &.-enlarged RunHeader { display: block !important; }
        &.-enlarged .-large { display: block !important; height: 1fr !important; }
        &.-in-curves #numbers, &.-in-numbers #curves { display: none; }
        &.-in-numbers #numbers { width: 1fr; }
        &.-in-curves #second { display: none; }
        &.-in-second #second { display: block; height: 1fr; }
    }
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        narrow(self)
        self.run = run
        self.view = RunView()
        self.loaded = False
        """Whether everything that the files held when the screen was opened is shown."""
        self._feed: feeds.RunFeed | None = None
        self._asked: set[str] = set()
        """Commands of this screen that were not answered yet."""
        self._problem: str | None = None

    def compose(self) -> ComposeResult:
        series, marks = self.view.series, glyphs().markers
        yield RunHeader(self.view, id="header")
        with Horizontal(id="body"):
            with Vertical(id="curves"):
                yield Preparation(self.view, id="preparation")
                yield Chart("loss", _both(series, "loss"), id="loss")
                with Horizontal(id="second"):
                    yield Chart("perplexity", _both(series, "perplexity"), log_y=True, id="perplexity")
                    norm = Line("", series["grad_norm"], "third", marks[0], smooth=True)
                    yield Chart("gradient norm", [norm], id="grad-norm")
                    speed = Line("", series["tokens_per_second"], "fourth", marks[0], smooth=True)
                    yield Chart("tokens/s", [speed], id="speed")
                yield Pages(self.view, id="pages")
            with Vertical(id="numbers"):
                yield Figures(self.view, id="figures")
                yield DevicePane(self.view, id="devices")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin to follow the files."""
        self._feed = feeds.RunFeed(self, self.run)
        feeds.start(self.app, self._feed)

    def on_unmount(self) -> None:
        if self._feed is not None:
            self._feed.stop()

    def _tell_machine(self, summary: str) -> None:
        """The line above is the run's own here."""

    # ------------------------------------------------------------------ showing

    @on(feeds.RunChanged)
    def _take(self, message: feeds.RunChanged) -> None:
        """Fold a batch into the view, and repaint once the end of the files is reached."""
        batch, view = message.batch, self.view
        if batch.head is not None:
            view.info, view.spec, view.layout = batch.head.info, batch.head.spec, batch.head.layout
        before = view.state
        view.lost_because = batch.lost_because
        for source, event in batch.parts:
            view.apply(event, source)
            if isinstance(event, CommandDone):
                self._answered(event)
            elif isinstance(event, Started):
                self._tell_charts()
        self.query_one(Pages).add_log(batch.log)
        if batch.problem is not None and batch.problem != self._problem:
            self.notify(printable(batch.problem), title="This run cannot be read", severity="error", markup=False)
        self._problem = batch.problem
        if batch.complete:
            self._turn_to_failure(fresh=any(isinstance(event, Failure) for _, event in batch.parts))
            self.set_class(view.is_preparing, "-preparing")
            self.set_class(view.state == "failed", "-failed")
            if not self.loaded or view.state != before:
                self.refresh_bindings()
            self.loaded = True
            self._repaint()

    def _repaint(self) -> None:
        for pane in self.query(Painted):
            if pane.is_on_screen or not pane.size:
                pane.repaint()

    def _tell_charts(self) -> None:
        started = self.view.started
        for chart in self.query(Chart):
            chart.x_end = float(started.max_steps) if started and started.max_steps else None

    def _turn_to_failure(self, *, fresh: bool) -> None:
        pages = self.query_one(Pages)
        if fresh and "failure" in pages.names():
            pages.page = "failure"
        elif pages.page not in pages.names():
            pages.page = "log"

    # ------------------------------------------------------------------ looking

    def action_log_y(self) -> None:
        """Logarithmic or linear values: of the chart with the focus, else of all."""
        charts = [self.focused] if isinstance(self.focused, Chart) else list(self.query(Chart))
        for chart in charts:
            chart.log_y = not chart.log_y

    def action_x_axis(self) -> None:
        """Steps, tokens, time."""
        charts = list(self.query(Chart))
        following = X_NAMES[(X_NAMES.index(charts[0].x) + 1) % len(X_NAMES)]
        for chart in charts:
            chart.x = following
        self.notify(f"x axis: {X_WORDS[following]}", timeout=2)

    def action_pane(self, number: int) -> None:
        """Focus a pane; enlarge the one that has the focus, and make it small again."""
        pane = self.query_one(f"#{PANES[number - 1]}", Painted)
        large = self._enlarged
        hidden = not all(node.display for node in pane.ancestors_with_self if isinstance(node, Widget))
        if hidden or large not in {None, pane}:
            self._enlarge(pane)
        elif self.focused is pane:
            self._enlarge(None if large is pane else pane)
        self.call_after_refresh(pane.focus)

    @property
    def _enlarged(self) -> Painted | None:
        return next((pane for pane in self.query(Painted) if pane.has_class("-large")), None)

    def _enlarge(self, pane: Painted | None) -> None:
        for other in self.query(Painted):
            other.set_class(other is pane, "-large")
        ancestors = {node.id for node in pane.ancestors} if pane is not None else set()
        self.set_class(pane is not None, "-enlarged")
        for container in ("curves", "numbers", "second"):
            self.set_class(container in ancestors, f"-in-{container}")
        self.call_after_refresh(self._repaint)

    def action_enlarge(self) -> None:
        if isinstance(self.focused, Painted):
            self._enlarge(None if self._enlarged is self.focused else self.focused)

    def action_log(self) -> None:
        self._show_page("log")

    def action_samples(self) -> None:
        self._show_page("samples")

    def action_events(self) -> None:
        self._show_page("events")

    def _show_page(self, page: str) -> None:
        pages = self.query_one(Pages)
        pages.page = "log" if page == "log" else "samples" if page == "samples" else "events"
        pages.focus()

    async def action_back(self) -> None:
        """A large pane becomes small; else the screen is closed."""
        if self._enlarged is not None:
            self._enlarge(None)
        else:
            await self.app.run_action("back")

    # ------------------------------------------------------------------ asking

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that make no sense now are not offered; where another meaning would lurk behind, they stay."""
        del parameters
        state = self.view.state
        if action == "resume":
            return state in ENDED
        if action == "relayout":
            return state in ENDED | {"paused"}
        if action == "stop":
            return state in TAKES["stop"]
        if action == "checkpoint":
            return state in TAKES["checkpoint"]
        return True

    def refusal_of(self, action: str) -> str | None:
        return STOP_FIRST if action == "relayout" and self.view.state in LIVE else None

    def title_of(self, action: str, title: str) -> str | None:
        """One key pauses and goes on. It is always taken, for behind it another screen would open."""
        if action != "pause":
            return title
        state = self.view.state
        if state in TAKES["pause"]:
            return title
        return "Go on" if state in TAKES["resume"] - ENDED else None

    def action_pause(self) -> None:
        """Pause, or go on."""
        state = self.view.state
        if state in TAKES["pause"]:
            self._request("pause")
        elif state in TAKES["resume"] - ENDED:
            self._request("resume")
        else:
            more = "; R resumes it" if state in ENDED else ""
            self.notify(f"a run that is {state} cannot be paused{more}", severity="warning", timeout=4)

    def action_checkpoint(self) -> None:
        self._request("checkpoint")

    def action_stop(self) -> None:
        from tui.screens.dialogs import Confirm

        name = self.view.info.name if self.view.info else self.run.id
        text = f"{name} is {self.view.state}. It writes a checkpoint first and can be resumed later."
        question = Confirm("Stop this training?", text, "Stop")
        self.app.push_screen(question, lambda yes: self._request("stop") if yes else None)

    def action_resume(self) -> None:
        """Start the processes of an ended run anew."""

        def resume() -> None:
            from engine.runs import control

            control.resume(self.run)

        self._in_background(resume, "resuming from the newest checkpoint")

    def action_relayout(self) -> None:
        """Ask for another layout to go on under."""
        from tui.screens.relayout import open_relayout

        open_relayout(cast("TraindeckApp", self.app), self.run)

    def _request(self, action: Action) -> None:
        def ask() -> None:
            from engine.runs import control

            self._asked.add(control.request(self.run, action).id)

        self._in_background(ask, _REQUESTED[action])

    def _in_background(self, job: Callable[[], None], words: str) -> None:
        deck = cast("TraindeckApp", self.app)
        deck.in_background(job, lambda _: self.notify(words, timeout=3), group="request", failed=self._failed)

    def _failed(self, error: BaseException) -> None:
        title = getattr(error, "title", type(error).__name__)
        message = "\n".join(filter(None, (getattr(error, "message", str(error)), getattr(error, "hint", ""))))
        self.notify(printable(message or str(error)), title=printable(title), severity="error", markup=False)

    def _answered(self, event: CommandDone) -> None:
        """A refusal is news; that it was done is seen in the header, the figures and the events."""
        if event.id not in self._asked:
            return
        self._asked.discard(event.id)
        if not event.accepted:
            words = f"{event.action} refused" + (f": {event.message}" if event.message else "")
            self.notify(printable(words), severity="warning", timeout=4, markup=False)


def _both(series: Mapping[str, Series | Derived], what: str) -> list[Line]:
    marks = glyphs().markers
    return [
        Line("train", series[f"train_{what}"], "train", marks[0], short="train", smooth=True),
        Line("validation", series[f"validation_{what}"], "validation", marks[1], short="val", marked=True),
    ]
