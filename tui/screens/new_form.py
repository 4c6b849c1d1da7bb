"""The form of a new training: one row for every field of a spec, the main ones first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.widgets import Input, Static

from engine.contract.errors import Problem
from tui.actions import bindings
from tui.fields import Field, sections
from tui.widgets.choice import Choice
from tui.widgets.field import FieldRow, row_id


class Form(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Rows under headings. Knows texts and problems by field name, and nothing of what they mean."""

    BINDINGS = bindings("form")

    def __init__(self, texts: Mapping[str, str]) -> None:
        super().__init__()
        self._texts = dict(texts)
        self._problems: dict[str, str] = {}
        self._sections = sections()
        self.complete = False
        """Whether every field is shown."""

    def compose(self) -> ComposeResult:
        for heading, fields in self._sections.items():
            main = [field for field in fields if field.main]
            if main:
                yield Static(heading, classes="heading", id=_heading_id(heading), markup=False)
            for field in main:
                yield FieldRow(field, self._texts[field.name])

    # ------------------------------------------------------------------ fields

    def fill(self, texts: Mapping[str, str]) -> None:
        """Put new texts into all fields."""
        self._texts = dict(texts)
        for row in self.query(FieldRow):
            row.put(self._texts[row.field.name])

    def put(self, name: str, text: str) -> None:
        """Put a text into one field as if it were typed."""
        editor = self.row(name).editor
        if isinstance(editor, Choice):
            editor.put(text)
        else:
            editor.value = text

    def row(self, name: str) -> FieldRow:
        """The row of a field; raises NoMatches while it is not shown."""
        return self.query_one(f"#{row_id(name)}", FieldRow)

    def shows(self, name: str) -> bool:
        return any(row.field.name == name and row.display for row in self.query(FieldRow))

    def show_problems(self, problems: Iterable[Problem]) -> None:
        """Put each problem under its field; the first of a field counts."""
        self._problems = {}
        for problem in problems:
            words = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
            self._problems.setdefault(problem.field, words)
        for row in self.query(FieldRow):
            row.problem = self._problems.get(row.field.name, "")

    async def show_all(self, everything: bool) -> None:
        """Show every field there is, or the main ones only."""
        if everything and not self.query(".more"):
            for heading, fields in self._sections.items():
                await self._mount_rest(heading, [field for field in fields if not field.main])
        self.complete = everything
        self.set_class(everything, "-complete")
        for widget in self.query(".more"):
            widget.display = everything
        self.show_problems_again()

    async def _mount_rest(self, heading: str, fields: list[Field]) -> None:
        rows = [FieldRow(field, self._texts[field.name]) for field in fields]
        for row in rows:
            row.add_class("more")
        main = [field for field in self._sections[heading] if field.main]
        if main:
            await self.mount(*rows, after=self.row(main[-1].name))
        else:
            await self.mount(Static(heading, classes="heading more", id=_heading_id(heading), markup=False), *rows)

    def show_problems_again(self) -> None:
        """Rows that came later learn of problems that were found before."""
        for row in self.query(FieldRow):
            row.problem = self._problems.get(row.field.name, "")

    @on(FieldRow.Edited)
    def _edited(self, event: FieldRow.Edited) -> None:
        self._texts[event.row.field.name] = event.text

    # ------------------------------------------------------------------ moving

    def focus_field(self, name: str) -> bool:
        """Put the cursor into a field; False while it is not shown."""
        try:
            self.row(name).editor.focus()
        except NoMatches:
            return False
        return True

    def action_step(self, rows: int) -> None:
        shown = [row for row in self.query(FieldRow) if row.display]
        here = next((index for index, row in enumerate(shown) if row.has_focus_within), None)
        if here is None:
            return
        if here + rows >= len(shown):
            self.screen.focus_next()
        else:
            shown[max(0, here + rows)].editor.focus()

    def action_jump(self, steps: int) -> None:
        """Go to the first field of the section before or after."""
        firsts: list[FieldRow] = []
        shown: list[FieldRow] = []
        after_heading = False
        for child in self.children:
            if not child.display:
                continue
            if isinstance(child, FieldRow):
                shown.append(child)
                if after_heading:
                    firsts.append(child)
            after_heading = child.has_class("heading")
        here = next((index for index, row in enumerate(shown) if row.has_focus_within), 0)
        places = [shown.index(row) for row in firsts]
        beyond = [place for place in places if (place > here if steps > 0 else place < here)]
        if beyond:
            shown[beyond[0] if steps > 0 else beyond[-1]].editor.focus()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_step(1)


def _heading_id(heading: str) -> str:
    return "heading-" + heading.lower()
