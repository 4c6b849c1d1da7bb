"""``python -P -m engine.training.evaluate``: a checkpoint scored on the whole held-out text."""

from __future__ import annotations

import argparse
import sys

from engine.contract.specfile import read_spec
from engine.data.batches import validation_batches
from engine.training.answering import Answer, answer
from engine.training.inputs import open_run, read_layout
from engine.training.scoring import Scores, bytes_per_token, sum_of_nats
from engine.training.trained import load_trained


def evaluate(arguments: argparse.Namespace) -> Answer:
    """``{"loss", "perplexity", "bits_per_byte", "tokens", "checkpoint"}``."""
    run = open_run(arguments.run_dir)
    spec, layout = read_spec(run.spec), read_layout(run.plan)
    trained = load_trained(run, arguments.checkpoint)
    batches = validation_batches(trained.data.validation, spec.data.sequence_length, layout.micro_batch, None)
    nats, tokens = sum_of_nats(trained.model, batches, trained.device, trained.autocast)
    scores = Scores.of(nats, tokens, bytes_per_token(trained.data))
    return {
        "loss": scores.loss,
        "perplexity": scores.perplexity,
        "bits_per_byte": scores.bits_per_byte,
        "tokens": scores.tokens,
        "checkpoint": trained.checkpoint,
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m engine.training.evaluate", description="Score a checkpoint")
    parser.add_argument("--checkpoint", help="step-<n> or best; the newest when left out")
    return answer(parser, evaluate, lambda scores: "\n".join(f"{name}: {value}" for name, value in scores.items()))


if __name__ == "__main__":
    sys.exit(main())
