"""The sub-commands of ``traindeck``, declared: one for each action of the app.

What a command does is in :mod:`tui.commands` and imported when it runs, so that ``traindeck --help`` costs next to
nothing.
"""

# ruff: noqa: PLC0415 (each command imports what it needs when it runs)
from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tui.cli_profiles import profiles_app
from tui.options import CheckpointName, Json, Run, Sets, Spec, Yes, command_group

EPILOG = """\b
Exit codes:
  0    done
  1    failed: an error, a run that failed, a model that does not fit
  2    the command line, a spec or a profile is wrong; plan cannot tell whether it fits
  130  interrupted (ctrl-c while following a training only detaches: 0)
  141  whoever read the output went away

\b
Environment: TRAINDECK_HOME (where runs, profiles and prepared data are kept),
TRAINDECK_SET (overrides as of --set, separated by spaces), TRAINDECK_ASCII,
NO_COLOR, CUDA_VISIBLE_DEVICES, HF_HOME, HF_HUB_OFFLINE.
A flag goes before the environment, the environment before the file.

\b
Results go to standard output, everything else to standard error. With --json
an error is also printed to standard output, as {"error": {...}}.
"""


class Commands(TyperGroup):
    """Turns what goes wrong in any sub-command into a message and an exit code, never a traceback."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        from tui.commands.output import reporting

        self._as_json = "--json" in args
        with reporting(as_json=self._as_json):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        from tui.commands.output import reporting

        with reporting(as_json=self._as_json):
            result = super().invoke(ctx)
            sys.stdout.flush()
        return result


app = command_group(cls=Commands, epilog=EPILOG)
app.add_typer(profiles_app, name="profiles")


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback(invoke_without_command=True)
def traindeck(
    ctx: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan, launch and watch the training of language models. Without a command the app opens."""
    if ctx.invoked_subcommand is None:
        from tui.commands.opening import open_app

        open_app()


@app.command()
def demo(
    sets: Sets = None,
    app_: Annotated[bool, typer.Option("--app", help="Watch in the app instead of plain lines.")] = False,
    json_: Json = False,
) -> None:
    """Train the quickstart: plan, train, evaluate, sample."""
    from tui.commands import training

    training.demo(sets or [], in_app=app_, as_json=json_)


@app.command()
def train(
    spec: Spec,
    sets: Sets = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return at once; the training goes on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print spec, estimate, mesh and command only.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Progress lines, also in a terminal.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start although the estimate says it does not fit.")] = False,
    slurm: Annotated[
        bool,
        typer.Option("--slurm", help="Submit it as a Slurm job. Its nodes must share TRAINDECK_HOME and the data."),
    ] = False,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            "--sbatch", metavar="KEY=VALUE", help="An option of sbatch, as in nodes=2; implies --slurm; repeatable."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Start a training, detached, and follow it. Inside a Slurm allocation it takes the nodes of that."""
    from tui.commands import training

    training.train(
        spec, sets or [], name=name, detach=detach, dry_run=dry_run, plain=plain, force=force, as_json=json_,
        slurm=slurm, sbatch=sbatch or [],
    )  # fmt: skip


@app.command()
def plan(spec: Spec, sets: Sets = None, json_: Json = False) -> None:
    """Show layout, mesh, memory and size, and whether it fits here."""
    from tui.commands import planning

    planning.plan(spec, sets or [], as_json=json_)


@app.command()
def runs(
    state: Annotated[str | None, typer.Option("--state", help="Only runs in this state.")] = None, json_: Json = False
) -> None:
    """List all runs, newest first."""
    from tui.commands import listing

    listing.runs(state, as_json=json_)


@app.command()
def status(run: Run, json_: Json = False) -> None:
    """Show where a run stands."""
    from tui.commands import listing

    listing.status(run, as_json=json_)


@app.command()
def attach(
    run: Run = "latest",
    once: Annotated[bool, typer.Option("--once", help="Print one picture of the run and return.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Progress lines, also in a terminal.")] = False,
) -> None:
    """Watch a run: the app in a terminal, lines elsewhere."""
    from tui.commands import watching

    watching.attach(run, once=once, plain=plain)


@app.command()
def logs(
    run: Run = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Print the output of a run's processes."""
    from tui.commands import watching

    watching.logs(run, follow=follow, lines=lines)


@app.command()
def stop(
    run: Run,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended.")] = False,
    json_: Json = False,
) -> None:
    """Write a checkpoint and end a run."""
    from tui.commands import control

    control.ask(run, "stop", until_ended=wait, as_json=json_)


@app.command()
def pause(run: Run, json_: Json = False) -> None:
    """Halt a run between steps; its devices stay taken."""
    from tui.commands import control

    control.ask(run, "pause", as_json=json_)


@app.command()
def resume(
    run: Run,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Go on under another layout, as in layout.tp=2; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the layout it would go on under only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start although the estimate says it does not fit.")] = False,
    json_: Json = False,
) -> None:
    """Go on with a paused or ended run, also under another layout.

    --set changes layout.* and budget.*; all else belongs to the run. Another strategy drops the sizes of the former
    one. The batch stays, so that no sample is repeated or left out: micro-batch and accumulation follow from it.
    """
    from tui.commands import control, relayout

    if sets or dry_run:
        relayout.resume_under(run, sets or [], dry_run=dry_run, force=force, as_json=json_)
    else:
        control.ask(run, "resume", as_json=json_)


@app.command()
def checkpoint(run: Run, json_: Json = False) -> None:
    """Write a checkpoint now."""
    from tui.commands import control

    control.ask(run, "checkpoint", as_json=json_)


@app.command()
def delete(run: Run, yes: Yes = False, json_: Json = False) -> None:
    """Delete an ended run and everything in it."""
    from tui.commands import control

    control.delete(run, yes=yes, as_json=json_)


@app.command()
def devices(json_: Json = False) -> None:
    """Show the devices of this machine and how busy they are."""
    from tui.commands import planning

    planning.devices(as_json=json_)


@app.command()
def hosts(
    names: Annotated[list[str] | None, typer.Argument(metavar="[HOST]...", help="As ssh knows them.")] = None,
    spec: Annotated[
        str | None, typer.Option("--spec", metavar="PROFILE_OR_FILE", help="Check the devices and data it needs, too.")
    ] = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Check whether other machines can train together with this one."""
    from tui.commands import hosts as hosts_

    hosts_.hosts(names or [], spec, sets or [], as_json=json_)


@app.command()
def presets(json_: Json = False) -> None:
    """List the model presets with their parameter counts."""
    from tui.commands import planning

    planning.presets(as_json=json_)


@app.command()
def strategies(json_: Json = False) -> None:
    """List the parallel strategies with a line each."""
    from tui.commands import planning

    planning.strategies(as_json=json_)


@app.command()
def data(
    spec: Spec,
    sets: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare anew what is prepared already.")] = False,
    json_: Json = False,
) -> None:
    """Prepare the data of a spec and show what came of it."""
    from tui.commands import asking

    asking.data(spec, sets or [], force=force, as_json=json_)


@app.command()
def generate(
    run: Run,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Text to go on from.", show_default="a line end")
    ] = "\n",
    tokens: Annotated[int, typer.Option("--tokens", "-n", min=1, help="How many tokens to write.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among this many tokens; 0: among all.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 1337,
    checkpoint_: CheckpointName = None,
    json_: Json = False,
) -> None:
    """Let the model of a run write text."""
    from tui.commands import asking

    asking.generate(
        run, prompt=prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed, checkpoint=checkpoint_,
        as_json=json_,
    )  # fmt: skip


@app.command("eval")
def evaluate(
    run: Run,
    checkpoint_: CheckpointName = None,
    json_: Json = False,
) -> None:
    """Measure a run's model on its whole validation set."""
    from tui.commands import asking

    asking.evaluate(run, checkpoint_, as_json=json_)


@app.command()
def export(run: Run, checkpoint_: CheckpointName = None, json_: Json = False) -> None:
    """Write a run's model as a Hugging Face folder."""
    from tui.commands import asking

    asking.export(run, checkpoint_, as_json=json_)


@app.command()
def doctor(json_: Json = False) -> None:
    """Check this machine, this installation and this terminal."""
    from tui.commands import doctor as doctor_

    doctor_.doctor(as_json=json_)


@app.command()
def version(json_: Json = False) -> None:
    """Print the version."""
    from tui.commands import opening

    opening.version(as_json=json_)
