"""``python -P -m engine.training --run-dir DIR``: one worker, alone or one of those that torchrun started."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def main() -> int:
    """Parse the command line and train."""
    started = time.time()
    parser = argparse.ArgumentParser(prog="python -m engine.training", description="Train a run, as one of its workers")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the run")
    arguments = parser.parse_args()
    from engine.training.worker import work  # noqa: PLC0415 - takes seconds: requests made meanwhile must count

    return work(arguments.run_dir, started)


if __name__ == "__main__":
    sys.exit(main())
