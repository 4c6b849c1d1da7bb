"""Preparing is streamed: memory does not grow with the source."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
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


def _write(path: Path, megabytes: int) -> None:
    """A corpus of stories of 20 kB each, in the format that the suffix names."""
    texts = (f"Story {number}: é " + "a hen laid an egg; " * 1080 for number in range(megabytes * 50))
    if path.suffix == ".parquet":
        schema = pyarrow.schema({"text": pyarrow.string()})
        with pyarrow.parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for text in texts:  # row groups of 1 MB
                batch = [text, *itertools.islice(texts, 49)]
                writer.write_table(pyarrow.table({"text": batch}, schema=schema))
        return
    with path.open("w") as file:
        if path.suffix == ".txt":
            file.writelines(texts)  # one huge line
        elif path.suffix == ".csv":
            file.write("text\n")
            file.writelines(f'"{text}"\n' for text in texts)
        else:
            whole = path.suffix == ".json"
            file.write("[" if whole else "")
            for number, text in enumerate(texts):
                file.write(("," if whole and number else "") + json.dumps({"text": text}) + "\n")
            file.write("]" if whole else "")


@pytest.mark.parametrize(
    ("suffix", "kind", "small"),
    [
        ("txt", "bytes", 2),
        ("txt", "characters", 2),
        ("txt", "bpe", 15),  # more than the sample that the tokenizer is made from
        ("jsonl", "bytes", 2),
        ("json", "bytes", 2),
        ("csv", "bytes", 2),
        ("parquet", "bytes", 2),
    ],
)
def test_memory_is_that_of_a_small_source(
    suffix: str, kind: str, small: int, tmp_path: Path, spec_for: Any, write_spec: Any
) -> None:
    peaks = {}
    for megabytes in (small, 120):
        path = tmp_path / f"corpus.{suffix}"
        _write(path, megabytes)
        assert path.stat().st_size > megabytes * 1_000_000
        tokenizer = {"kind": kind, "vocabulary": 600}
        peaks[megabytes] = _peak(write_spec(spec_for(path, tokenizer)), tmp_path / f"home-{megabytes}")
        path.unlink()
    assert peaks[120] < peaks[small] + (25 << 20), peaks
