"""A wheel in an environment of its own, used from a directory that has an ``engine`` folder too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``traindeck`` command of a wheel installed where the checkout cannot be seen."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT,
        cwd=folder,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("traindeck-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    # Dependencies come from the environment of the tests; a path in a .pth file does not read that folder's own
    # .pth files, so the checkout, installed there in editable form, stays out of sight.
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin" / "traindeck"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory with packages that must not be taken for ours."""
    for name in ("engine", "tui", "profiles"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the working directory was imported')\n")
    return tmp_path


def test_the_wheel_holds_no_checkout(installed: Path, elsewhere: Path) -> None:
    python = installed.parent / "python"
    done = run(python, "-P", "-c", "import engine; print(engine.__file__)", cwd=elsewhere)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent.parent), done.stderr


def test_the_shipped_profiles_are_found(installed: Path, elsewhere: Path) -> None:
    done = run(installed, "profiles", "list", "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    names = {profile["name"] for profile in json.loads(done.stdout)["profiles"]}
    assert {path.stem for path in (ROOT / "profiles").glob("*.toml")} <= names


@pytest.mark.slow
def test_workers_start_beside_a_folder_called_engine(installed: Path, elsewhere: Path) -> None:
    (elsewhere / "text").mkdir()
    for number in range(12):
        (elsewhere / "text" / f"{number}.txt").write_text(f"the {number} quick brown foxes jump\n" * 60)
    done = run(
        installed, "train", "quickstart", "--json",
        "--set", "data.source=text", "--set", "tokenizer.kind=bytes", "--set", "budget.max_steps=2",
        "--set", "model.layers=1", "--set", "data.sequence_length=32", "--set", "data.validation_fraction=0.3",
        "--set", "evaluation.sample_tokens=0",
        cwd=elsewhere,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    status = run(installed, "status", "latest", "--json", cwd=elsewhere)
    assert json.loads(status.stdout)["state"] == "finished", status.stdout
    assert json.loads(status.stdout)["step"] == 2
