"""A grid of dots in character cells: braille (2 x 4 dots a cell), blocks (2 x 2), or ASCII (1 x 1).

Each cell has one style. What is drawn later covers a cell of another style instead of mixing its dots into
it: the curve on top stays readable.
"""

from __future__ import annotations

from tui.widgets.glyphs import Drawing

_BRAILLE_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of each dot of a braille cell (Unicode 16, section 21.1): column, then row from the top."""
_BLOCK_BITS = ((1, 4), (2, 8))
_BLOCKS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"
_ASCII_BITS = ((1,),)
DOTS: dict[Drawing, tuple[int, int]] = {"braille": (2, 4), "block": (2, 2), "ascii": (1, 1)}
"""Dots across and down a cell."""


def _span_masks(bits: tuple[tuple[int, ...], ...]) -> list[list[list[int]]]:
    """``masks[column][top][bottom]``: the dots from ``top`` to ``bottom`` in a column of a cell."""
    rows = len(bits[0])
    return [[[sum(column[top : end + 1]) for end in range(rows)] for top in range(rows)] for column in bits]


_MASKS: dict[Drawing, list[list[list[int]]]] = {
    "braille": _span_masks(_BRAILLE_BITS),
    "block": _span_masks(_BLOCK_BITS),
    "ascii": _span_masks(_ASCII_BITS),
}


class Raster:
    """``width`` x ``height`` cells, empty at first. Dots count from the top left corner."""

    def __init__(self, width: int, height: int, drawing: Drawing) -> None:
        self.width = width
        self.height = height
        self.drawing: Drawing = drawing
        self.dots_across, self.dots_down = DOTS[drawing]
        self.columns = width * self.dots_across
        self.rows = height * self.dots_down
        self._bits = [0] * (width * height)
        self._styles: list[str] = [""] * (width * height)
        self._signs: dict[int, str] = {}
        self._symbols: dict[str, str] = {}
        self._masks = _MASKS[drawing]

    def name_style(self, style: str, symbol: str) -> None:
        """In ASCII the cells of ``style`` show ``symbol``: curves are told apart without colour."""
        self._symbols[style] = symbol

    def span(self, column: int, top: int, bottom: int, style: str) -> None:
        """The dots of one dot column from ``top`` to ``bottom`` (inclusive, in either order)."""
        if not 0 <= column < self.columns:
            return
        if top > bottom:
            top, bottom = bottom, top
        top, bottom = max(0, top), min(self.rows - 1, bottom)
        if top > bottom:
            return
        down = self.dots_down
        cell_x, side = divmod(column, self.dots_across)
        masks = self._masks[side]
        first, last = top // down, bottom // down
        bits, styles, width = self._bits, self._styles, self.width
        for cell_y in range(first, last + 1):
            mask = masks[top % down if cell_y == first else 0][bottom % down if cell_y == last else down - 1]
            index = cell_y * width + cell_x
            if styles[index] == style:
                bits[index] |= mask
            else:
                bits[index] = mask
                styles[index] = style

    def sign(self, column: int, row: int, sign: str, style: str) -> None:
        """A whole cell with ``sign`` at a dot."""
        if 0 <= column < self.columns and 0 <= row < self.rows:
            index = row // self.dots_down * self.width + column // self.dots_across
            self._signs[index] = sign
            self._styles[index] = style

    def lines(self) -> list[list[tuple[str, str]]]:
        """Rows of ``(text, style)`` pieces; together ``width`` cells each."""
        return [self._line(row) for row in range(self.height)]

    def _line(self, row: int) -> list[tuple[str, str]]:
        pieces: list[tuple[str, str]] = []
        text, style = "", ""
        start = row * self.width
        for index in range(start, start + self.width):
            bits = self._bits[index]
            sign = self._signs.get(index) or (self._glyph(bits, index) if bits else " ")
            here = self._styles[index] if sign != " " else ""
            if here != style and text:
                pieces.append((text, style))
                text = ""
            style = here
            text += sign
        if text:
            pieces.append((text, style))
        return pieces

    def _glyph(self, bits: int, index: int) -> str:
        if self.drawing == "braille":
            return chr(0x2800 + bits)
        if self.drawing == "block":
            return _BLOCKS[bits]
        return self._symbols.get(self._styles[index], "*")
