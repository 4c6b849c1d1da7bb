"""Where a node keeps its part of a run."""

from __future__ import annotations

from pathlib import Path

from engine.contract.durable import write_durably
from engine.contract.rundir import RunDirectory
from engine.runs.home import home, private_folder
from engine.runs.wire import Begin


def settle(begin: Begin) -> tuple[RunDirectory, bool]:
    """The directory of the run on this host, and whether it is the first host's own, on a disk that both share.

    Elsewhere it is ``nodes/<id>`` in this host's Traindeck home, not among the runs: what a person may want to know
    of the run, and what can be asked of it, is on the first host. Raises TraindeckError or OSError.
    """
    theirs = Path(begin.directory)
    if (theirs / begin.mark).is_file():
        return RunDirectory(theirs), True
    run = RunDirectory(private_folder(home() / "nodes") / begin.place.run)
    for folder in (run.path, run.events, run.telemetry, run.checkpoints, run.errors):
        private_folder(folder)
    for path, text in ((run.spec, begin.spec), (run.plan, begin.plan), (run.info, begin.info)):
        write_durably(path, text.encode())
    return run, False


def lock_of(run: RunDirectory, node: int) -> Path:
    """Held by the node process: of two on one host, in one run, the later waits."""
    return run.path / f"node-{node}.lock"
