"""All trainings, newest first, with their live states: the screen that the app opens on."""

# ruff: noqa: PLC0415 (what only an action needs is imported by the action)
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from engine.contract.errors import SpecError
from engine.contract.rundir import RunDirectory
from engine.contract.specfile import read_spec
from engine.contract.states import ENDED, LIVE, TAKES
from tui import feeds
from tui.actions import bindings
from tui.screens.filtered import FilteredScreen
from tui.screens.frame import STOP_FIRST
from tui.screens.runs_rows import COLUMNS, row_of
from tui.summary import data_summary, layout_summary, model_summary
from tui.text import human_duration, human_number, human_time, printable, reason_words
from tui.widgets.table import Table

if TYPE_CHECKING:
    from engine.contract.spec import RunSpec
    from engine.runs.status import RunStatus
    from tui.app import TraindeckApp

QUICKSTART = "quickstart"
WELCOME = (
    ("enter", "train the quickstart: a small model of Python code,"),
    ("", "about 4 minutes on 2 cores, nothing to download"),
    ("n", "set up another training"),
    ("p", "look at the profiles"),
    ("?", "all keys"),
)


def welcome() -> Content:
    """What a first start says."""
    parts: list[str | tuple[str, str]] = [
        ("No runs yet\n\n", "bold"),
        "Traindeck trains language models on this machine. A training goes on\n",
        "when this window is closed; open it again and you are back at it.\n",
    ]
    for key, text in WELCOME:
        parts += ["\n  ", (key.ljust(8), "bold $accent"), text]
    return Content.assemble(*parts)


class Described(NamedTuple):
    """What a run's spec says, read once."""

    model: str
    data: str


class RunsScreen(FilteredScreen):
    """See the module."""

    PLACE = "runs"
    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")
    AUTO_FOCUS = "Table"
    FILTER = "name, state, model or data"

    runs: reactive[tuple[RunStatus, ...] | None] = reactive(None, init=False)
    """None until the folder of runs was read once."""

    def __init__(self) -> None:
        super().__init__()
        self._described: dict[str, Described] = {}
        self._reading: set[str] = set()
        self._wanted: str | None = None
        """The run that the cursor goes to once it is listed."""
        self._feed: feeds.RunsFeed | None = None
        self._problem: str | None = None

    @property
    def deck(self) -> TraindeckApp:
        return cast("TraindeckApp", self.app)

    def compose_body(self) -> ComposeResult:
        yield from self.compose_filter()
        yield Table(COLUMNS, id="runs")
        yield Static("", id="welcome", markup=False)
        yield Static("", id="about", markup=False)

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#welcome").display = False

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._follow)

    def on_screen_suspend(self) -> None:
        """Nothing is read for a list that nobody sees."""
        if self._feed is not None:
            self._feed.stop()
            self._feed = None

    def on_unmount(self) -> None:
        self.on_screen_suspend()

    def _follow(self) -> None:
        if self._feed is None and self.is_current:
            self._feed = feeds.RunsFeed(self)
            feeds.start(self.app, self._feed)

    @on(feeds.RunsChanged)
    def _runs_changed(self, event: feeds.RunsChanged) -> None:
        self.runs = event.statuses
        if event.problem is not None and event.problem != self._problem:
            self.notify(printable(event.problem), title="The runs cannot be read", severity="error", markup=False)
        self._problem = event.problem

    # ------------------------------------------------------------------ showing

    def watch_runs(self) -> None:
        runs = self.runs
        if runs is None:
            return
        self._describe([run for run in runs if run.run not in self._described and run.run not in self._reading])
        self.query_one("#welcome").display = not runs
        self.query_one("#runs").display = bool(runs)
        if not runs:
            self.query_one("#welcome", Static).update(welcome())
        elif self.focused is None:
            self.query_one("#runs").focus()
        self.show_matching()

    def show_matching(self) -> None:
        runs = sorted(self.runs or (), key=lambda run: (-run.created, run.run))
        shown = [run for run in runs if self._matches(run)]
        now = self.deck.now()
        table = self.query_one("#runs", Table)
        table.show([row_of(run, self._described.get(run.run), now) for run in shown])
        if self._wanted is not None and table.select(self._wanted):
            self._wanted = None
        self._show_about()

    def point_at(self, run: str) -> None:
        """Put the cursor on a run, now or when it comes into the list; a person who moves it meanwhile is obeyed."""
        self._wanted = run
        self.show_matching()

    def _matches(self, run: RunStatus) -> bool:
        described = self._described.get(run.run, Described("", ""))
        return self.matches(run.name, run.run, run.state, *described)

    def _describe(self, runs: Sequence[RunStatus]) -> None:
        """Read the specs of new runs in a thread: a thousand files would hold up the screen."""
        if not runs:
            return
        folders = {run.run: Path(run.directory) for run in runs}
        self._reading |= set(folders)
        self.deck.in_background(lambda: {key: describe(path) for key, path in folders.items()}, self._described_now)

    def _described_now(self, found: dict[str, Described]) -> None:
        self._described |= found
        self._reading -= set(found)
        self.show_matching()

    def _show_about(self) -> None:
        run = self.selected
        self.query_one("#about", Static).update(self._about(run) if run else "")
        self.query_one("#about").display = run is not None
        self.refresh_bindings()

    def _about(self, run: RunStatus) -> str:
        described = self._described.get(run.run, Described("n/a", "n/a"))
        layout = layout_summary(run.layout) if run.layout else "n/a"
        best = f"   best validation loss {human_number(run.best_validation_loss)}"
        lines = [
            f"{run.run}   created {human_time(run.created)}",
            f"{described.model}   {described.data}   {layout}",
            f"trained {human_duration(run.elapsed_seconds)}" + (best if run.best_validation_loss is not None else ""),
            reason_words(run.state, run.reason or ""),
        ]
        return "\n".join(printable(line, newlines=False) for line in lines)

    @property
    def selected(self) -> RunStatus | None:
        """The run under the cursor."""
        key = self.query_one("#runs", Table).selected
        return next((run for run in self.runs or () if run.run == key), None)

    @on(Table.Moved)
    def _moved(self, event: Table.Moved) -> None:
        if event.by_hand:
            self._wanted = None
        self._show_about()

    # ------------------------------------------------------------------ acting

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what the selected run can take is offered."""
        if action == "unfilter":
            return self.is_filtered
        if action not in {"stop", "resume", "relayout", "delete", "copy", "open", "filter", "quickstart"}:
            return True
        if not self.is_mounted or not self.runs:
            return action == "quickstart" and self.runs is not None
        run = self.selected
        if action == "filter":
            return True
        if run is None or action == "quickstart":
            return False
        if action == "delete":
            return run.state in ENDED
        if action == "relayout":
            return run.state in ENDED | {"paused"}
        return run.state in TAKES[action] if action in TAKES else True

    def refusal_of(self, action: str) -> str | None:
        run = self.selected if self.is_mounted and self.runs else None
        return STOP_FIRST if action == "relayout" and run is not None and run.state in LIVE else None

    def action_open(self) -> None:
        """Watch the selected run."""
        if (run := self.selected) is not None:
            self.deck.open_run(RunDirectory(Path(run.directory)))

    def action_quickstart(self) -> None:
        """One key from here to the start button, one more to a training."""
        self.deck.show_new().start_from(QUICKSTART)

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_open()

    def action_copy(self) -> None:
        if (run := self.selected) is None:
            return
        path = RunDirectory(Path(run.directory)).spec
        self.deck.in_background(lambda: read_spec(path), lambda spec: self._copied(spec, path))

    def _copied(self, spec: RunSpec, path: Path) -> None:
        self.deck.draft_from(spec, str(path))

    def action_stop(self) -> None:
        from tui.screens.dialogs import Confirm

        if (run := self.selected) is None:
            return
        question = Confirm(
            "Stop this training?",
            f"{run.name} is {run.state}. It writes a checkpoint first and can be resumed later.",
            "Stop",
        )
        self.app.push_screen(question, lambda yes: self._request(run, "stop") if yes else None)

    def action_resume(self) -> None:
        if (run := self.selected) is not None:
            self._request(run, "resume")

    def action_relayout(self) -> None:
        from tui.screens.relayout import open_relayout

        if (run := self.selected) is not None:
            open_relayout(self.deck, RunDirectory(Path(run.directory)))

    def _request(self, run: RunStatus, action: str) -> None:
        """Ask the run for something in a thread; the feed shows what comes of it."""

        def ask() -> str:
            from engine.runs import control

            directory = RunDirectory(Path(run.directory))
            if action == "resume":
                control.resume(directory)
                return f"{run.name} goes on"
            control.request(directory, "stop")
            return f"{run.name} stops after its checkpoint"

        self.deck.in_background(ask, lambda text: self.notify(printable(text, newlines=False), markup=False))

    def action_delete(self) -> None:
        from tui.screens.dialogs import Confirm

        if (run := self.selected) is None:
            return
        question = Confirm(
            "Delete this run?",
            f"{run.name} ({run.run}) with its curves and checkpoints is deleted from disk. This cannot be undone.",
            "Delete",
        )
        self.app.push_screen(question, lambda yes: self._delete(run) if yes else None)

    def _delete(self, run: RunStatus) -> None:
        def delete() -> str:
            from engine.runs.remove import delete_run

            delete_run(RunDirectory(Path(run.directory)))
            return run.run

        self.deck.in_background(delete, self._deleted)

    def _deleted(self, run: str) -> None:
        self.runs = tuple(other for other in self.runs or () if other.run != run)
        self.notify("Deleted", timeout=3)


def describe(directory: Path) -> Described:
    """Model and data of the run in ``directory`` as its spec names them."""
    try:
        spec = read_spec(RunDirectory(directory).spec)
    except SpecError:
        return Described("unreadable spec", "n/a")
    return Described(model_summary(spec), data_summary(spec))
