"""Every action of the app, once: bindings, key line, help and command palette are all made from this list.

A screen names its place and takes ``BINDINGS = bindings("runs")``; an action without a place works on every
screen. Keys are Textual's names; upper-case letters are the ones that take something away, and they ask first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from textual.binding import Binding, BindingType

ANYWHERE: Final = "anywhere"


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that a person can do, and how."""

    name: str
    """Textual's action: ``start``, ``app.show('runs')``."""
    keys: str
    """Textual key names, separated by commas; the first is the one that is shown. Empty: palette only."""
    title: str
    """One or two words for the key line."""
    help: str
    """A sentence for help and palette."""
    place: str = ANYWHERE
    """Which screen it belongs to."""
    footer: bool = True
    """Whether the key line shows it."""
    palette: bool = True
    """Whether it makes sense as a command: moving a cursor does not."""
    priority: bool = False
    """Taken before the focused widget sees the key."""


TITLES: Final[dict[str, str]] = {
    ANYWHERE: "On every screen",
    "runs": "Runs",
    "new": "New training",
    "relayout": "Another layout for a run",
    "profiles": "Profiles",
    "devices": "Devices",
    "monitor": "Monitor",
    "list": "In lists",
    "form": "In forms",
    "dialog": "In dialogs",
}
"""Places in the order in which help shows them, with their headings."""


def _act(place: str, keys: str, name: str, title: str, text: str, **more: bool) -> Action:
    return Action(name=name, keys=keys, title=title, help=text, place=place, **more)


_SILENT: Final = {"footer": False, "palette": False}
"""For keys that only move."""
ACTIONS: Final[tuple[Action, ...]] = (
    _act("runs", "enter", "open", "Open", "Watch the selected run: curves, devices, samples, log"),
    _act("runs", "enter", "quickstart", "Train the quickstart", "Prepare the quickstart (while there are no runs)"),
    _act("runs", "slash", "filter", "Filter", "Show only the runs whose name, state, model or data match"),
    _act("runs", "escape", "unfilter", "Show all", "Take the filter away", palette=False),
    _act("runs", "c", "copy", "Copy", "Fill in a new training with the settings of the selected run"),
    _act("runs", "S", "stop", "Stop", "Stop the selected run after it has written a checkpoint (asks)"),
    _act("runs", "R", "resume", "Resume", "Continue the selected run, from its newest checkpoint if it has ended"),
    _act("runs", "L", "relayout", "Other layout", "Continue the selected run, paused or ended, under another layout"),
    _act("runs", "X", "delete", "Delete", "Delete the selected run, which must have ended, and its checkpoints (asks)"),
    _act("new", "ctrl+t", "start", "Start", "Start the training and watch it; it goes on without this window"),
    _act("new", "ctrl+s", "save", "Save", "Save these settings under a name, to start from them again"),
    _act("new", "ctrl+l", "load", "Load", "Start from another profile: fill in the form with its settings"),
    _act("new", "ctrl+o", "more", "All fields", "Show every setting there is, or only the main ones"),
    _act("new", "ctrl+y", "copy_command", "Copy command", "Copy the command line that starts exactly this training"),
    _act("relayout", "ctrl+t", "start", "Resume", "Go on with the run under this layout and watch it"),
    _act("relayout", "ctrl+o", "more", "All fields", "Show every field that can change, or only the main ones"),
    _act("relayout", "ctrl+y", "copy_command", "Copy command", "Copy the command line that does exactly this"),
    _act("profiles", "enter", "open", "Use", "Fill in a new training with the selected profile"),
    _act("profiles", "slash", "filter", "Filter", "Show only the profiles whose name or description match"),
    _act("profiles", "escape", "unfilter", "Show all", "Take the filter away", palette=False),
    _act("profiles", "c", "clone", "Clone", "Make a copy of the selected profile under a new name"),
    _act("profiles", "e", "export", "Export", "Write the selected profile to a TOML file"),
    _act("profiles", "i", "import", "Import", "Read a profile from a TOML file"),
    _act("profiles", "R", "rename", "Rename", "Give the selected profile of yours another name"),
    _act("profiles", "X", "delete", "Delete", "Delete the selected profile of yours (asks)"),
    _act("monitor", "p,space", "pause", "Pause", "Pause the training at the end of a step, or go on with it"),
    _act("monitor", "c", "checkpoint", "Checkpoint", "Write a checkpoint at the end of this step"),
    _act("monitor", "S", "stop", "Stop", "Stop the training after it has written a checkpoint (asks)"),
    _act("monitor", "R", "resume", "Resume", "Go on with a run that has ended, from its newest checkpoint"),
    _act("monitor", "L", "relayout", "Other layout", "Go on with a run, paused or ended, under another layout"),
    _act("monitor", "y", "log_y", "Log y", "Values on a logarithmic or linear axis: the focused chart, else all"),
    _act("monitor", "x", "x_axis", "X axis", "Over steps, tokens or trained time"),
    _act("monitor", "l", "log", "Log", "Show the output of the training processes"),
    _act("monitor", "s", "samples", "Samples", "Show what the model writes"),
    _act("monitor", "e", "events", "Events", "Show what happened, with times"),
    _act("monitor", "enter,z", "enlarge", "Enlarge", "Show the focused pane alone, or all again", footer=False),
    _act("monitor", "1", "pane(1)", "Loss", "Focus the loss chart; again: enlarge it", footer=False),
    _act("monitor", "2", "pane(2)", "Perplexity", "Focus the perplexity chart; again: enlarge it", footer=False),
    _act("monitor", "3", "pane(3)", "Numbers", "Focus the numbers; again: enlarge them", footer=False),
    _act("monitor", "4", "pane(4)", "Run's devices", "Focus the run's devices; again: enlarge them", footer=False),
    _act("monitor", "5", "pane(5)", "Texts", "Focus log, events and samples; again: enlarge them", footer=False),
    _act("monitor", "6", "pane(6)", "Gradient norm", "Focus the chart of the gradient norm", footer=False),
    _act("monitor", "7", "pane(7)", "Speed", "Focus the chart of the speed", footer=False),
    _act("monitor", "escape", "back", "Back", "Leave an enlarged pane, then the run; it goes on", footer=False,
         palette=False),
    _act("list", "up,k", "move(-1)", "Up", "The line above", **_SILENT),
    _act("list", "down,j", "move(1)", "Down", "The line below", **_SILENT),
    _act("list", "pageup,ctrl+b", "page(-1)", "Page up", "A page up", **_SILENT),
    _act("list", "pagedown,ctrl+f", "page(1)", "Page down", "A page down", **_SILENT),
    _act("list", "home,g", "first", "First", "The first line", **_SILENT),
    _act("list", "end,G", "last", "Last", "The last line", **_SILENT),
    # Before the focused field sees them, so that what is typed right after them goes to the next field.
    _act("form", "tab", "app.focus_next", "Next", "The next field, then the start", **_SILENT, priority=True),
    _act("form", "shift+tab", "app.focus_previous", "Before", "The field before", **_SILENT, priority=True),
    _act("form", "up", "step(-1)", "Previous field", "The field above", **_SILENT, priority=True),
    _act("form", "down", "step(1)", "Next field", "The field below (or enter)", **_SILENT, priority=True),
    _act("form", "pageup", "jump(-1)", "Section up", "The section above", **_SILENT, priority=True),
    _act("form", "pagedown", "jump(1)", "Section down", "The section below", **_SILENT, priority=True),
    _act(ANYWHERE, "r", "app.show('runs')", "Runs", "All trainings, with their state", footer=False),
    _act(ANYWHERE, "n", "app.show('new')", "New", "Set up a new training", footer=False),
    _act(ANYWHERE, "p", "app.show('profiles')", "Profiles", "Settings by name: shipped ones and yours", footer=False),
    _act(ANYWHERE, "d", "app.show('devices')", "Devices", "What this machine has and how busy it is", footer=False),
    _act(ANYWHERE, "escape", "app.back", "Back", "Close what is open, go back to the runs", palette=False),
    _act(ANYWHERE, "question_mark,f1", "app.help", "Help", "All keys and what they do"),
    _act(ANYWHERE, "ctrl+p", "app.command_palette", "Palette", "Find any command by its name", palette=False),
    _act(ANYWHERE, "", "app.switch_theme", "Theme", "Change between the dark and the light theme", footer=False),
    _act(ANYWHERE, "q", "app.quit", "Close", "Close this window; trainings go on"),
)  # fmt: skip


def actions_of(place: str) -> Iterator[Action]:
    """The actions of one place, in the order in which they are shown."""
    return (action for action in ACTIONS if action.place == place)


def bindings(place: str) -> list[BindingType]:
    """The actions of one place as Textual bindings."""
    return [
        Binding(
            action.keys,
            action.name,
            action.title,
            show=action.footer,
            priority=action.priority,
            tooltip=action.help,
        )
        for action in actions_of(place)
        if action.keys
    ]


_KEY_NAMES: Final[dict[str, str]] = {
    "question_mark": "?", "slash": "/", "escape": "esc", "pageup": "pgup", "pagedown": "pgdn", "space": "space",
    "up": "up", "down": "down", "left": "left", "right": "right", "full_stop": ".", "comma": ",", "plus": "+",
    "minus": "-", "equals_sign": "=", "left_square_bracket": "[", "right_square_bracket": "]",
}  # fmt: skip


def key_text(key: str) -> str:
    """A Textual key name as it stands on a keyboard: ``^t`` for ``ctrl+t``, ``?`` for ``question_mark``."""
    if key.startswith("ctrl+"):
        return "^" + key_text(key.removeprefix("ctrl+"))
    return _KEY_NAMES.get(key, key)


def keys_text(action: Action) -> str:
    """All keys of an action for the help screen: ``up or k``."""
    return " or ".join(key_text(key) for key in action.keys.split(","))
