"""Deleting a run with everything that belongs to it."""

from __future__ import annotations

import shutil

from engine.contract.errors import RunError
from engine.contract.rundir import RunDirectory
from engine.contract.states import LIVE
from engine.runs.liveness import read_identity
from engine.runs.processes import Known, end_leftovers
from engine.runs.slurmjob import read_job
from engine.runs.state import read_state


def delete_run(run: RunDirectory) -> None:
    """Delete an ended run, or one that was never started; of a link to one, the link alone.

    Raises RunError for any other, and for what is no run.
    """
    state, _ = read_state(run)
    is_new = state == "queued" and read_identity(run) is None and read_job(run) is None
    if state in LIVE and not is_new:
        raise RunError("A run that is not ended cannot be deleted", f"{run.id} is {state}", "Stop it first.")
    end_leftovers(Known(run).read())
    if run.path.is_symlink():  # what it points to lies elsewhere and is not ours to delete
        run.path.unlink()
        return
    aside = run.path.with_name(f".{run.path.name}.deleted")
    try:
        run.path.rename(aside)  # all at once for those who list runs, whatever stops the rest
        shutil.rmtree(aside)
    except OSError as error:
        raise RunError(
            "The run was not deleted completely",
            f"{error.filename or aside}: {error.strerror or error}",
            f"Delete what is left by hand: {aside if aside.exists() else run.path}",
        ) from None
