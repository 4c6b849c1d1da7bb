"""What the command and the first paint of the app cost: CPU seconds of the whole process, medians of five.

The app runs in a pseudo-terminal of 160 x 48 cells; its first paint is complete when the screen's last word, the
footer, has been written.
"""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from tests.benchmarks.machine import store

TRAINDECK = [str(Path(sys.executable).with_name("traindeck"))]
RUNS = 5
FOOTER = b"Palette"


def command_cpu_seconds(*arguments: str) -> float:
    """User and system time of one command, from start to exit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*TRAINDECK, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_paint_cpu_seconds() -> float:
    """CPU time that the app has used when its footer appears."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        os.execv(TRAINDECK[0], TRAINDECK)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 48, 160, 0, 0))
    written = b""
    deadline = time.monotonic() + 30
    try:
        while FOOTER not in written:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no footer within 30 s; the terminal got {written[-2000:]!r}")
            if select.select([terminal], [], [], 0.005)[0]:
                written += os.read(terminal, 1 << 16)
        return cpu_seconds_of(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def main() -> None:
    """Print and store the medians."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["TRAINDECK_HOME"] = home
        figures = {
            "help_cpu_seconds": [command_cpu_seconds("--help") for _ in range(RUNS)],
            "runs_cpu_seconds": [command_cpu_seconds("runs") for _ in range(RUNS)],
            "first_paint_cpu_seconds": [first_paint_cpu_seconds() for _ in range(RUNS)],
        }
    medians = {name: round(statistics.median(values), 3) for name, values in figures.items()}
    for name, value in medians.items():
        print(f"{name:26} {value:.3f}")
    rounded = {name: [round(value, 3) for value in values] for name, values in figures.items()}
    print(f"stored in {store('screen_cost', {'medians': medians, 'all': rounded})}")


if __name__ == "__main__":
    main()
