"""Where a benchmark ran, and where its figures are kept."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine_name() -> str:
    """Processor and core count, for example ``intel-xeon-8375c-2-cores``."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: the platform's own word stands
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "-".join([*words[:6], str(cores), "cores"])


def store(benchmark: str, figures: dict[str, object]) -> Path:
    """Write the figures of one benchmark with the machine's name and the date; returns the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}-{machine_name()}.json"
    record = {"benchmark": benchmark, "machine": machine_name(), "date": time.strftime("%Y-%m-%d"), **figures}
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
