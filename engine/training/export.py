"""``python -P -m engine.training.export``: a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
import sys

from engine.model.huggingface import export_folder
from engine.training.answering import Answer, answer
from engine.training.inputs import open_run
from engine.training.trained import load_trained


def export(arguments: argparse.Namespace) -> Answer:
    """``{"directory", "checkpoint"}``; raises ModelError for networks that transformers does not have."""
    run = open_run(arguments.run_dir)
    trained = load_trained(run, arguments.checkpoint)
    data = trained.data
    export_folder(
        trained.model.cpu(), trained.content.shape, run.export, data.tokenizer_file, eos_id=data.manifest.eos_id
    )
    return {"directory": str(run.export), "checkpoint": trained.checkpoint}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m engine.training.export", description="Export a checkpoint")
    parser.add_argument("--checkpoint", help="step-<n> or best; the newest when left out")
    return answer(parser, export, lambda result: f"exported {result['checkpoint']} to {result['directory']}")


if __name__ == "__main__":
    sys.exit(main())
