"""``make bench``: every benchmark, one after another, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("engine_speed", "parallel_overhead", "screen_cost")


def main() -> int:
    """Run them all; the exit status tells whether one could not be measured."""
    failed = 0
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
