"""The light list: columns that fit, a cursor that stays on its row, and rows that alone are redrawn."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from tests.tui.looking import shown
from tui.widgets.table import Cell, Column, Row, Table

COLUMNS = (
    Column(title="Name", width=8, flexible=True),
    Column(title="Model", width=10, rank=2),
    Column(title="Loss", width=6, right=True, rank=1),
)


def rows(*names: str) -> list[Row]:
    return [Row(name, (Cell(name), Cell(f"m-{name}", "dim"), Cell("1.25", "bad"))) for name in names]


class Shelf(App[None]):
    """A table and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str | None] = []

    def compose(self) -> ComposeResult:
        yield Table(COLUMNS)

    def on_table_moved(self, event: Table.Moved) -> None:
        self.said.append(event.key)


@pytest.mark.parametrize(
    ("width", "header"),
    [(40, "Name Model Loss"), (28, "Name Loss"), (16, "Name")],
)
async def test_narrow_ones_drop_the_least_important_columns(width: int, header: str) -> None:
    app = Shelf()
    async with app.run_test(size=(width, 10)) as pilot:
        app.query_one(Table).show(rows("a", "b"))
        await pilot.pause()
        assert " ".join(shown(app)[0].split()) == header
        assert {len(line) for line in shown(app)} == {width}


async def test_the_cursor_follows_its_row_and_says_when_it_is_another() -> None:
    app = Shelf()
    async with app.run_test(size=(40, 10)) as pilot:
        table = app.query_one(Table)
        table.show(rows("a", "b", "c"))
        table.focus()
        await pilot.press("down", "j")
        assert table.selected == "c"
        table.show(rows("x", "c", "a"))
        assert (table.cursor, table.selected) == (1, "c")
        table.show(rows("x", "a"))
        assert table.selected == "a"
        table.show([])
        assert table.selected is None
        await pilot.press("down", "G", "pagedown")
        table.show(rows("z"))
        await pilot.pause()
        assert app.said == ["a", "b", "c", "a", None, "z"]


async def test_long_lists_scroll_with_the_cursor() -> None:
    app = Shelf()
    async with app.run_test(size=(40, 10)) as pilot:
        table = app.query_one(Table)
        table.show(rows(*(f"row-{number:03}" for number in range(200))))
        table.focus()
        await pilot.press("G")
        await pilot.pause()
        assert "row-199" in shown(app)[-1]
        assert "Name" in shown(app)[0]
        await pilot.press("g")
        await pilot.pause()
        assert "row-000" in shown(app)[1]
        await pilot.press("pagedown")
        assert table.cursor == 8


async def test_only_changed_rows_are_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Shelf()
    async with app.run_test(size=(40, 10)) as pilot:
        table = app.query_one(Table)
        table.show(rows("a", "b", "c"))
        await pilot.pause()
        drawn: list[int] = []
        draw = table.render_line
        monkeypatch.setattr(table, "render_line", lambda y: drawn.append(y) or draw(y))
        changed = rows("a", "b", "c")
        changed[1] = Row("b", (Cell("b"), Cell("new"), Cell("1.20")))
        table.show(changed)
        await pilot.pause()
        assert drawn == [2]
        table.show(changed)
        await pilot.pause()
        assert drawn == [2]


async def test_clicks_select_and_then_open() -> None:
    opened: list[str] = []

    class Clicked(Shelf):
        def on_table_opened(self, event: Table.Opened) -> None:
            opened.append(event.key)

    app = Clicked()
    async with app.run_test(size=(40, 10)) as pilot:
        table = app.query_one(Table)
        table.show(rows("a", "b"))
        await pilot.pause()
        await pilot.click(Table, offset=(3, 2))
        assert table.selected == "b"
        assert opened == []
        await pilot.click(Table, offset=(3, 2))
        await pilot.pause()
        assert opened == ["b"]


async def test_wide_characters_and_control_characters_keep_the_columns() -> None:
    app = Shelf()
    async with app.run_test(size=(40, 5)) as pilot:
        app.query_one(Table).show([Row("w", (Cell("训练语言模型训练语言模型"), Cell("a\x1b[2Jb"), Cell("1")))])
        await pilot.pause()
        line = shown(app)[1]
        assert "\x1b" not in line
        assert line.rstrip().endswith("1")
        assert "…" in line
