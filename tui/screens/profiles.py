"""Settings by name: the shipped ones and one's own, with what each of them says."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import tomli_w
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from engine.contract.check import name_problem
from engine.contract.errors import ProfileError
from engine.contract.spec import RunSpec
from engine.contract.specfile import dump_spec
from engine.runs import profiles as store
from tui.actions import bindings
from tui.screens.dialogs import AskText, Confirm, title_text
from tui.screens.filtered import FilteredScreen
from tui.text import printable
from tui.widgets.field import PathSuggester
from tui.widgets.table import Cell, Column, Row, Table

if TYPE_CHECKING:
    from engine.runs.profiles import Profile
    from tui.app import TraindeckApp

COLUMNS = (
    Column(title="Profile", width=18),
    Column(title="Origin", width=7),
    Column(title="Description", width=20, flexible=True),
)


class ProfilesScreen(FilteredScreen):
    """See the module. Shipped profiles cannot be changed; clones of them can."""

    PLACE = "profiles"
    BINDINGS: ClassVar[list[BindingType]] = bindings("profiles")
    AUTO_FOCUS = "Table"
    FILTER = "name or description"

    def __init__(self) -> None:
        super().__init__()
        self._profiles: list[Profile] = []

    @property
    def deck(self) -> TraindeckApp:
        return cast("TraindeckApp", self.app)

    def compose_body(self) -> ComposeResult:
        yield from self.compose_filter()
        yield Table(COLUMNS, id="profiles")
        with VerticalScroll(id="preview"):
            yield Static("", id="toml", markup=False)

    def on_screen_resume(self) -> None:
        self.reload()

    def reload(self, select: str | None = None) -> None:
        """Read all profiles again in a thread."""
        self.deck.in_background(store.list_profiles, lambda found: self._show(found, select))

    def _show(self, profiles: list[Profile], select: str | None) -> None:
        self._profiles = profiles
        self.show_matching()
        if select is not None:
            index = next((i for i, profile in enumerate(profiles) if profile.name == select), None)
            if index is not None:
                self.query_one(Table).select(_key(profiles[index], index))
        self._show_preview()

    def show_matching(self) -> None:
        self.query_one(Table).show(
            [_row(profile, index) for index, profile in enumerate(self._profiles) if self._matches(profile)]
        )

    def _matches(self, profile: Profile) -> bool:
        return self.matches(profile.name, profile.spec.description if profile.spec else "", profile.origin)

    @property
    def selected(self) -> Profile | None:
        """The profile under the cursor."""
        key = self.query_one(Table).selected
        found = (profile for index, profile in enumerate(self._profiles) if _key(profile, index) == key)
        return next(found, None)

    @on(Table.Moved)
    def _show_preview(self) -> None:
        profile = self.selected
        text = ""
        if profile is not None and profile.spec is None:
            text = f"This profile is broken:\n{profile.problem}"
        elif profile is not None and profile.spec is not None:
            text = decided(profile.spec)
            if profile.problem:
                text = f"# {profile.problem}\n{text}"
        self.query_one("#toml", Static).update(printable(text))
        self.query_one("#preview", VerticalScroll).scroll_home(animate=False)
        self.query_one("#preview").border_title = title_text(profile.name) if profile else ""
        self.refresh_bindings()

    # ------------------------------------------------------------------ acting

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Changing is offered for one's own only, and copying for what is not broken."""
        if action not in {"open", "clone", "export", "rename", "delete", "unfilter"}:
            return True
        if not self.is_mounted:
            return False
        if action == "unfilter":
            return self.is_filtered
        return self.selected is not None

    def action_open(self) -> None:
        if (profile := self._sound()) is not None and profile.spec is not None:
            self.deck.draft_from(profile.spec, profile.name)

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_open()

    def _sound(self) -> Profile | None:
        """The selected profile; a broken one is refused with its problem."""
        profile = self.selected
        if profile is not None and profile.spec is None:
            self.deck.fail(ProfileError(f"The profile {profile.name!r} is broken", profile.problem or ""))
            return None
        return profile

    def _mine(self) -> Profile | None:
        """The selected profile if it may be changed; else it is said why not."""
        profile = self.selected
        if profile is not None and profile.origin == "shipped":
            self.notify(
                f"{printable(profile.name, newlines=False)} came with Traindeck and cannot be changed: "
                "press c to make a copy that can",
                severity="warning", markup=False,
            )  # fmt: skip
            return None
        return profile

    def action_clone(self) -> None:
        if (profile := self._sound()) is None:
            return
        name = profile.name
        self._ask_name(
            "Clone the profile", f"Name of the copy of {name}:", f"{name}-2",
            lambda new: self._do(lambda: store.clone_profile(name, new), f"Cloned as {new}", new),
        )  # fmt: skip

    def action_rename(self) -> None:
        if (profile := self._mine()) is None:
            return
        name = profile.name
        self._ask_name(
            "Rename the profile", f"New name of {name}:", name,
            lambda new: self._do(lambda: store.rename_profile(name, new), f"Renamed to {new}", new),
        )  # fmt: skip

    def action_delete(self) -> None:
        if (profile := self._mine()) is None:
            return
        name = profile.name
        question = Confirm("Delete this profile?", f"{name} is deleted. Runs that were started from it stay.", "Delete")
        self.app.push_screen(
            question, lambda yes: self._do(lambda: store.delete_profile(name), f"Deleted {name}") if yes else None
        )

    def action_export(self) -> None:
        if (profile := self._sound()) is None:
            return
        name = profile.name
        self.app.push_screen(
            AskText(
                "Export the profile", f"File or folder to write {name} to:", f"{name}.toml",
                problem_of=_path_problem, suggester=PathSuggester(),
            ),
            lambda path: self._export(name, Path(path), overwrite=False) if path is not None else None,
        )  # fmt: skip

    def _export(self, name: str, path: Path, *, overwrite: bool) -> None:
        def export() -> Path | None:
            """The file that was written; None if it is there already and nobody has agreed to replace it."""
            try:
                return store.export_profile(name, path, overwrite=overwrite)
            except ProfileError:
                if not overwrite and path.expanduser().exists():
                    return None
                raise

        def done(written: Path | None) -> None:
            if written is not None:
                self.notify(f"Written to {printable(str(written), newlines=False)}", markup=False)
                return
            question = Confirm("Replace the file?", f"{path} exists.", "Replace")
            self.app.push_screen(question, lambda yes: self._export(name, path, overwrite=True) if yes else None)

        self.deck.in_background(export, done)

    def action_import(self) -> None:
        self.app.push_screen(
            AskText("Import a profile", "TOML file to read:", problem_of=_path_problem, suggester=PathSuggester()),
            lambda path: self._import(Path(path)) if path is not None else None,
        )

    def _import(self, path: Path) -> None:
        self.deck.in_background(
            lambda: store.import_profile(path), lambda name: self._done(f"Imported as {name}", name)
        )

    def _ask_name(self, title: str, text: str, value: str, then: Callable[[str], None]) -> None:
        self.app.push_screen(
            AskText(title, text, value, problem_of=name_problem), lambda name: then(name) if name is not None else None
        )

    def _do(self, job: Callable[[], None], text: str, select: str | None = None) -> None:
        self.deck.in_background(job, lambda _none: self._done(text, select))

    def _done(self, text: str, select: str | None) -> None:
        self.notify(printable(text, newlines=False), markup=False, timeout=3)
        self.reload(select)


def decided(spec: RunSpec) -> str:
    """What ``spec`` says other than the defaults, as TOML: short enough to be read."""
    usual = tomllib.loads(dump_spec(RunSpec()))
    tree: dict[str, object] = {}
    for name, value in tomllib.loads(dump_spec(spec)).items():
        default = usual[name]
        if isinstance(value, dict) and isinstance(default, dict):
            value = {leaf: item for leaf, item in value.items() if leaf not in default or default[leaf] != item}
        if value not in ({}, default):
            tree[name] = value
    return tomli_w.dumps(tree)


def _key(profile: Profile, index: int) -> str:
    """Two profiles may have one name (a registry that was edited by hand): the place tells them apart."""
    return f"{profile.origin}/{profile.name}/{index if profile.problem else ''}"


def _row(profile: Profile, index: int) -> Row:
    if profile.problem:
        about = Cell(profile.problem, "bad")
    else:
        about = Cell(profile.spec.description if profile.spec else "", "dim")
    return Row(_key(profile, index), (Cell(profile.name), Cell(profile.origin, "dim"), about))


def _path_problem(text: str) -> str | None:
    return None if text.strip() and "\0" not in text else "a path is needed"
