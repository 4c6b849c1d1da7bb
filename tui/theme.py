"""The looks of the app: one dark and one light theme, calm, with one accent, and plain borders on request."""

from __future__ import annotations

from typing import Final

from textual.theme import Theme

DARK: Final = Theme(
    name="traindeck-dark",
    dark=True,
    primary="#6cb6eb",
    secondary="#9aa7b8",
    accent="#e5b567",
    success="#7fc98f",
    warning="#e5b567",
    error="#e8787a",
    foreground="#d5dae1",
    background="#14171c",
    surface="#1b1f26",
    panel="#252b34",
    variables={
        "block-cursor-background": "#2c4a63",
        "block-cursor-foreground": "#f2f5f8",
        "block-cursor-text-style": "none",
        "input-selection-background": "#6cb6eb 35%",
        "border": "#3a424e",
        "scrollbar": "#3a424e",
        "scrollbar-hover": "#525d6c",
        "scrollbar-active": "#6cb6eb",
        "scrollbar-background": "#14171c",
        "scrollbar-background-hover": "#14171c",
        "scrollbar-background-active": "#14171c",
        "scrollbar-corner-color": "#14171c",
        "border-blurred": "#3a424e",
    },
)
LIGHT: Final = Theme(
    name="traindeck-light",
    dark=False,
    primary="#15629c",
    secondary="#5d6876",
    accent="#8a5a00",
    success="#1f7a37",
    warning="#8a5a00",
    error="#b3262c",
    foreground="#20262e",
    background="#fafbfc",
    surface="#f0f2f5",
    panel="#e2e6ec",
    variables={
        "block-cursor-background": "#c5dcf0",
        "block-cursor-foreground": "#10151b",
        "block-cursor-text-style": "none",
        "input-selection-background": "#15629c 25%",
        "border": "#b9c1cc",
        "scrollbar": "#b9c1cc",
        "scrollbar-hover": "#98a3b2",
        "scrollbar-active": "#15629c",
        "scrollbar-background": "#fafbfc",
        "scrollbar-background-hover": "#fafbfc",
        "scrollbar-background-active": "#fafbfc",
        "scrollbar-corner-color": "#fafbfc",
        "border-blurred": "#b9c1cc",
    },
)
THEMES: Final = (DARK, LIGHT)
