"""Preparing is streamed: memory does not grow with the source."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run([sys.executable, "-P", "-m", "engine.data", *sys.argv[1:]]).returncode
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""
"""Prints the exit code and the largest resident set of any one process below it, in bytes (Linux counts KiB)."""


def _peak(file: Path, home: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, "--spec", str(file), "--json"],
        capture_output=True, text=True, check=True, env={**os.environ, "TRAINDECK_HOME": str(home)},
    )  # fmt: skip
    code, peak = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return int(peak)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("txt", "bytes"), ("txt", "characters"), ("jsonl", "bytes"), ("json", "bytes")]
)
def test_memory_is_that_of_a_small_source(
    suffix: str, kind: str, tmp_path: Path, spec_for: Any, write_spec: Any
) -> None:
    peaks = {}
    for megabytes in (2, 120):
        path = tmp_path / f"corpus.{suffix}"
        with path.open("w") as file:
            file.write("[" if suffix == "json" else "")
            for number in range(megabytes * 50):
                text = f"Story {number}: é " + "a hen laid an egg; " * 1080
                if suffix == "txt":
                    file.write(text)  # one huge line
                else:
                    separator = "," if suffix == "json" and number else ""
                    file.write(separator + json.dumps({"text": text}) + "\n")
            file.write("]" if suffix == "json" else "")
        assert path.stat().st_size > megabytes * 1_000_000
        peaks[megabytes] = _peak(write_spec(spec_for(path, {"kind": kind})), tmp_path / f"home-{megabytes}")
        path.unlink()
    assert peaks[120] < peaks[2] + (60 << 20), peaks
