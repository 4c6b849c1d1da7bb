"""The app: its screens and how they are reached. What they show is theirs; what happens in threads is posted."""

# ruff: noqa: PLC0415 (a screen is imported when it is opened: the first paint pays for the first one only)
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.app import App
from textual.reactive import reactive
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarRender

from engine.contract.machine import Machine
from engine.contract.rundir import RunDirectory
from tui.actions import ANYWHERE, bindings
from tui.palette import ActionProvider
from tui.screens.runs import RunsScreen
from tui.text import ascii_wanted
from tui.theme import DARK, LIGHT, THEMES

if TYPE_CHECKING:
    from engine.contract.spec import RunSpec
    from tui.screens.new import NewScreen

T = TypeVar("T")


def _new() -> Screen[Any]:
    from tui.screens.new import NewScreen

    return NewScreen()


def _profiles() -> Screen[Any]:
    from tui.screens.profiles import ProfilesScreen

    return ProfilesScreen()


def _devices() -> Screen[Any]:
    from tui.screens.devices import DevicesScreen

    return DevicesScreen()


class PlainScrollBar(ScrollBarRender):
    """A scroll bar whose ends are whole cells, for terminals that show ASCII only."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


class TraindeckApp(App[None]):
    """Opens on the runs, or on the monitor of ``open_run``, or on a new training from ``profile``."""

    TITLE = "Traindeck"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (100, "-wide")]  # noqa: RUF012 - as Textual declares it
    BINDINGS = bindings(ANYWHERE)
    MODES: ClassVar[dict[str, Any]] = {"runs": RunsScreen, "new": _new, "profiles": _profiles, "devices": _devices}
    DEFAULT_MODE = "runs"
    COMMANDS: ClassVar[set[Any]] = {ActionProvider}
    ENABLE_COMMAND_PALETTE = True

    machine: reactive[Machine | None] = reactive(None)
    """This machine, looked at in a thread after the first paint and when the screens ask again."""
    machine_summary: reactive[str] = reactive("")

    def __init__(
        self, open_run: Path | None = None, profile: str | None = None, *,
        machine: Machine | None = None, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``machine`` stands for this one, which is then not looked at; ``now`` is the clock that tells ages."""
        super().__init__()
        self._open_run, self._profile = open_run, profile
        self._given_machine = machine
        self.now = now
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK.name
        if ascii_wanted():
            self.add_class("-ascii")
        ScrollBar.renderer = PlainScrollBar if ascii_wanted() else ScrollBarRender

    def on_mount(self) -> None:
        self.call_after_refresh(self._after_first_paint)

    def _after_first_paint(self) -> None:
        self.look_at_machine()
        if self._open_run is not None:
            self.open_run(RunDirectory(self._open_run))
        elif self._profile is not None:
            self.show_new().start_from(self._profile)

    # ------------------------------------------------------------------ screens

    def action_show(self, place: str) -> None:
        """Go to a screen; what is open in front of it is closed."""
        if self.screen.is_modal:
            return
        self.switch_mode(place)
        while len(self.screen_stack) > 1:
            self.pop_screen()

    async def action_back(self) -> None:
        """Close what is in front; from any other screen go to the runs."""
        if len(self.screen_stack) > 1:
            self.pop_screen()
        else:
            self.switch_mode("runs")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Going back is offered where there is something to go back to."""
        if action == "back":
            return len(self.screen_stack) > 1 or self.current_mode != "runs"
        return super().check_action(action, parameters)

    def action_help(self) -> None:
        from tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen) and not self.screen.is_modal:
            self.push_screen(HelpScreen(self.screen))

    def action_switch_theme(self) -> None:
        self.theme = LIGHT.name if self.theme == DARK.name else DARK.name

    def show_new(self) -> NewScreen:
        """The form for a new training, in front."""
        from tui.screens.new import NewScreen

        self.action_show("new")
        screen = self.screen
        assert isinstance(screen, NewScreen)
        return screen

    def draft_from(self, spec: RunSpec, origin: str) -> None:
        """Fill the form in with ``spec``; ``origin`` is what ``traindeck train`` would take for it."""
        self.show_new().fill(spec, origin)

    def open_run(self, run: RunDirectory) -> None:
        """Watch a run."""
        from tui.screens.monitor import MonitorScreen

        self.action_show("runs")
        if isinstance(self.screen, RunsScreen):
            self.screen.point_at(run.id)
        self.push_screen(MonitorScreen(run))

    # ------------------------------------------------------------------ background

    def look_at_machine(self) -> None:
        """Read the devices again, in a thread."""
        if self._given_machine is not None:
            self._see_machine(self._given_machine)
            return
        from engine.hardware.detect import detect

        self.in_background(detect, self._see_machine, group="machine")

    def _see_machine(self, machine: Machine) -> None:
        from tui.summary import machine_summary

        self.machine = machine
        self.machine_summary = machine_summary(machine)

    def in_background(
        self, job: Callable[[], T], done: Callable[[T], None], *, group: str = "job",
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:  # fmt: skip
        """Run ``job`` in a thread, then ``done`` with its result here; an error goes to ``failed``, else a dialog.

        An error in ``done`` or ``failed`` themselves is shown in a dialog too.
        """

        def answer(callback: Callable[[Any], None], value: object) -> None:
            try:
                callback(value)
            except Exception as error:  # the thread could not tell it to anyone
                self.fail(error)

        def work() -> None:
            try:
                result = job()
            except Exception as error:  # whatever it is, a person is told; the app and the trainings go on
                self.call_from_thread(answer, failed or self.fail, error)
            else:
                self.call_from_thread(answer, done, result)

        self.run_worker(work, thread=True, group=group, exit_on_error=False)

    def fail(self, error: BaseException) -> None:
        """Show an error with a text that can be copied."""
        from tui.screens.dialogs import error_dialog

        self.push_screen(error_dialog(error))
