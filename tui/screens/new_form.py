"""The form of a training: one row for every field of a spec, the main ones first, and what the strategy asks for."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.widget import AwaitMount
from textual.widgets import Input, Static

from engine.contract.errors import Problem
from tui.actions import bindings
from tui.fields import Field, sections
from tui.strategies import OF_ANY, Sizes, belonging
from tui.widgets.choice import Choice
from tui.widgets.field import FieldRow, row_id

STRATEGY = "layout.strategy"
_OF_ANY = frozenset(f"layout.{name}" for name in OF_ANY)


class Form(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Rows under headings. Knows texts and problems by field name, and nothing of what they mean.

    Beside the main fields it shows those that belong to the strategy, those of other strategies that say something
    all the same, and fields of the layout that have a problem: nothing that counts is out of sight.
    """

    BINDINGS = bindings("form")

    def __init__(
        self, texts: Mapping[str, str], headings: Iterable[str] | None = None, names: Container[str] | None = None
    ) -> None:  # fmt: skip
        """``headings`` are the sections that it has, ``names`` the fields; all of them when None."""
        super().__init__()
        known = sections()
        self._sections = {
            heading: [field for field in known[heading] if names is None or field.name in names]
            for heading in (known if headings is None else headings)
        }
        self._texts = dict(texts)
        self._problems: dict[str, str] = {}
        self._rows: dict[str, FieldRow] = {}
        self._sizes = Sizes()
        self.complete = False
        """Whether every field is shown."""

    def compose(self) -> ComposeResult:
        for heading, fields in self._sections.items():
            shown = [field for field in fields if self._wants(field)]
            title = Static(heading, classes="heading", id=_heading_id(heading), markup=False)
            title.display = bool(shown)
            yield title
            for field in shown:
                yield self._new_row(field)

    # ------------------------------------------------------------------ which fields

    def _wants(self, field: Field) -> bool:
        if self.complete or field.main:
            return True
        if field.name in self._problems and field.name.startswith("layout."):
            return True
        return field.name in _OF_ANY and (
            field.name in belonging(self._texts[STRATEGY]) or bool(self._texts[field.name])
        )

    def _new_row(self, field: Field) -> FieldRow:
        row = self._rows[field.name] = FieldRow(field, self._texts[field.name])
        return row

    def show_wanted(self, *, stay: bool = True) -> list[AwaitMount]:
        """Show the fields that are wanted now, in their order; with ``stay`` also the one that has the cursor."""
        mounted: list[AwaitMount] = []
        if not self.query(".heading"):
            return mounted  # composing comes to the same
        for heading, fields in self._sections.items():
            last = self.query_one(f"#{_heading_id(heading)}")
            any_shown = False
            fresh: list[FieldRow] = []
            for field in fields:
                row, wanted = self._rows.get(field.name), self._wants(field)
                if row is not None:
                    if fresh:
                        mounted.append(self.mount(*fresh, after=last))
                        fresh = []
                    row.display = wanted = wanted or (stay and row.has_focus_within)
                    last = row
                elif wanted:
                    fresh.append(self._new_row(field))
                any_shown = any_shown or wanted
            if fresh:
                mounted.append(self.mount(*fresh, after=last))
            self.query_one(f"#{_heading_id(heading)}").display = any_shown
        for row in self._rows.values():
            row.problem = self._problems.get(row.field.name, "")
        return mounted

    async def show_all(self, everything: bool) -> None:
        """Show every field there is, or only what is wanted."""
        self.complete = everything
        self.set_class(everything, "-complete")
        for mounted in self.show_wanted(stay=False):
            await mounted

    # ------------------------------------------------------------------ texts and problems

    @property
    def texts(self) -> Mapping[str, str]:
        """What every field says, shown or not."""
        return self._texts

    def fill(self, texts: Mapping[str, str]) -> None:
        """Put new texts into all fields."""
        self._texts = dict(texts)
        self._sizes = Sizes()
        self._put_in()
        self.show_wanted()

    def _put_in(self) -> None:
        for row in self._rows.values():
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
        return name in self._rows and self._rows[name].display

    def show_problems(self, problems: Iterable[Problem]) -> None:
        """Put each problem under its field; the first of a field counts."""
        self._problems = {}
        for problem in problems:
            words = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
            self._problems.setdefault(problem.field, words)
        self.show_wanted()

    @on(FieldRow.Edited)
    def _edited(self, event: FieldRow.Edited) -> None:
        name, text = event.row.field.name, event.row.text
        before, self._texts[name] = self._texts[name], text
        if name == STRATEGY and text != before:
            self._texts |= self._sizes.turn(self._texts, before, text)
            self._put_in()
            self.show_wanted()

    # ------------------------------------------------------------------ moving

    def _shown(self) -> list[FieldRow]:
        return [row for row in self.query(FieldRow) if row.display]

    def focus_field(self, name: str) -> bool:
        """Put the cursor into a field; False while it is not shown."""
        try:
            self._go_to(self.row(name))
        except NoMatches:
            return False
        return True

    def _go_to(self, row: FieldRow) -> None:
        """Put the cursor into a row at once: ``focus`` waits, and keys that come meanwhile would start from here."""
        self.screen.set_focus(row.editor)

    def action_step(self, rows: int) -> None:
        shown = self._shown()
        here = next((index for index, row in enumerate(shown) if row.has_focus_within), None)
        if here is None:
            return
        if here + rows >= len(shown):
            self.screen.focus_next()
        else:
            self._go_to(shown[max(0, here + rows)])

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
            self._go_to(shown[beyond[0] if steps > 0 else beyond[-1]])

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_step(1)


def _heading_id(heading: str) -> str:
    return "heading-" + heading.lower()
