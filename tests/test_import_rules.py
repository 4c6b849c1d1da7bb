"""Who may import whom: each module is imported alone in a fresh interpreter, and so is the way to the first paint."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "lightning", "transformers", "datasets", "pyarrow", "tokenizers", "numpy", "pandas"}

ROOMS: dict[str, set[str]] = {
    "contract": set(),
    "hardware": {"contract"},
    "planner": {"contract", "hardware"},
    "runs": {"contract", "hardware"},
    "data": {"contract"},
    "model": {"contract", "data", "hardware", "planner"},
    "parallel": {"contract", "model"},
    "training": {"contract", "data", "hardware", "planner", "model", "parallel"},
}
"""Engine rooms that each room may import, itself apart."""
FOR_SCREENS = {"contract", "hardware", "planner", "runs"}
"""Engine rooms that ``tui`` may import."""
MAY_BE_HEAVY = {"data", "model", "parallel", "training"}
ONE_FILE = {
    "pynvml": "engine/hardware/nvml.py",
    "psutil": "engine/hardware/host.py",
    "tinydb": "engine/runs/storage.py",
    "plotext": "tui/still.py",
}
"""Libraries that exactly one file imports."""

PROBE = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


def source_files() -> list[Path]:
    return sorted(
        path
        for package in ("engine", "tui")
        for path in (ROOT / package).rglob("*.py")
        if "shipped_profiles" not in path.parts
    )


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, module], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"import {module} fails alone:\n{done.stderr}"
    return set(json.loads(done.stdout))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "engine" and len(parts) > 1 else None


def imports_of(path: Path) -> set[str]:
    """Every module named by an import statement anywhere in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


LIGHT_MODULES = [
    module_name(path)
    for path in source_files()
    if room_of(module_name(path)) not in MAY_BE_HEAVY and path.name != "__main__.py"
]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    loaded = loaded_by(module)
    roots = {name.partition(".")[0] for name in loaded}
    allowed_heavy = {"numpy"} if module == "tui.still" else set()
    assert not roots & (HEAVY - allowed_heavy)
    own_room = room_of(module)
    if module.partition(".")[0] == "engine":
        assert "textual" not in roots
        assert "tui" not in roots
    if own_room is not None:
        rooms = {room for name in loaded if (room := room_of(name))}
        assert rooms <= ROOMS[own_room] | {own_room}
    if own_room == "contract":
        assert "msgspec" in roots or module.endswith(("states", "errors", "contract", "durable"))


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_statements_keep_to_the_rooms(path: Path) -> None:
    """Also imports inside functions, which a fresh interpreter does not execute."""
    module = module_name(path)
    names = imports_of(path)
    rooms = {room for name in names if (room := room_of(name))}
    own_room = room_of(module)
    if module.startswith("tui"):
        assert rooms <= FOR_SCREENS
        assert not {name.partition(".")[0] for name in names} & {"torch", "lightning", "transformers", "datasets"}
    elif own_room is not None:
        assert rooms <= ROOMS[own_room] | {own_room}
        assert not {name.partition(".")[0] for name in names} & {"tui", "textual"}
    for library, only in ONE_FILE.items():
        if library in {name.partition(".")[0] for name in names}:
            assert path.relative_to(ROOT).as_posix() == only, f"{library} is imported by {only} alone"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_and_nothing_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                assert not (keyword.arg == "shell" and ast.unparse(keyword.value) != "False")
            assert ast.unparse(node.func) not in {"os.system", "os.popen", "torch.load", "pickle.load", "pickle.loads"}


def test_contract_needs_only_msgspec() -> None:
    allowed = set(sys.stdlib_module_names) | {"engine", "msgspec", "tomli_w"}
    for path in (ROOT / "engine" / "contract").glob("*.py"):
        assert {name.partition(".")[0] for name in imports_of(path)} <= allowed, path
