"""A fake NVML library for tests: any number of GPUs, well or broken, on a machine that has none.

    folder = build(tmp_path)                       # compiles nvml.c, or skips the test without a compiler
    env = environment(folder, gpus=8, gpu3={"state": "!15"}, every={"utilisation": 87})
    subprocess.run([...], env={**os.environ, **env})
    configure(folder, gpus=0)                      # running programs see the change at their next reading

For a test that looks from inside its own process (a screen under a pilot): ``use_here(folder, monkeypatch, gpus=8)``.
Fields and their defaults are explained at the top of nvml.c.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"
VARIABLE = "FAKE_NVML_CONFIG"


def build(folder: Path) -> Path:
    """Compile the library into ``folder`` and return that folder."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc) for the fake NVML library")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / LIBRARY).exists():
        # The soname lets a copy that is loaded by its path answer for the name that nvidia-ml-py asks for.
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}"]
        subprocess.run([compiler, *options, "-o", str(folder / LIBRARY), str(SOURCE)], check=True, timeout=60)
    return folder


def configure(folder: Path, *, gpus: int = 1, init: int = 0, **values: Mapping[str, object]) -> Path:
    """Say what the library shows, from now on: ``every={...}`` for all GPUs, ``gpu0={...}`` for one of them,
    ``gpu0_mig1={...}`` for an instance."""
    lines = [f"count = {gpus}", f"init = {init}"]
    for who, fields in values.items():
        gpu, _, instance = who.removeprefix("gpu").partition("_mig")
        prefix = "all" if who == "every" else f"{gpu}/{instance}" if instance else gpu
        lines += [f"{prefix}.{field} = {value}" for field, value in fields.items()]
    file, new = folder / "nvml.conf", folder / "nvml.conf.new"
    new.write_text("\n".join(lines) + "\n")
    new.replace(file)
    return file


def environment(folder: Path, *, gpus: int = 1, init: int = 0, **values: Mapping[str, object]) -> dict[str, str]:
    """Variables under which a new process loads the library and sees these GPUs. See :func:`configure`."""
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": ":".join(paths), VARIABLE: str(configure(folder, gpus=gpus, init=init, **values))}


def use_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, gpus: int = 1, init: int = 0, **values: Mapping[str, object]
) -> None:
    """Let this very process see these GPUs until the end of the test.

    The library stays loaded, and without its variable tells later tests that there is no driver.
    """
    ctypes.CDLL(str(folder / LIBRARY), mode=ctypes.RTLD_GLOBAL)
    if not hasattr(ctypes.CDLL(LIBRARY), "fake_nvml"):
        pytest.skip("the real NVML library is loaded already")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv(VARIABLE, str(configure(folder, gpus=gpus, init=init, **values)))
