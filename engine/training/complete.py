"""``python -P -m engine.training.complete``: a prompt continued by a trained model."""

from __future__ import annotations

import argparse
import sys

from engine.contract.specfile import read_spec
from engine.model.generation import CachedReader
from engine.training.answering import Answer, answer
from engine.training.inputs import open_run
from engine.training.trained import load_trained
from engine.training.writing import write_text


def complete(arguments: argparse.Namespace) -> Answer:
    """``{"prompt", "text", "checkpoint"}``; the text is what follows the prompt."""
    run = open_run(arguments.run_dir)
    spec = read_spec(run.spec)
    trained = load_trained(run, arguments.checkpoint)
    with trained.autocast():
        text = write_text(
            CachedReader(trained.model, spec.data.sequence_length),
            trained.device,
            trained.data,
            arguments.prompt,
            new_tokens=arguments.tokens,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            seed=arguments.seed,
            stop_at_document_end=True,
        )
    return {"prompt": arguments.prompt, "text": text, "checkpoint": trained.checkpoint}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m engine.training.complete", description="Continue a prompt")
    parser.add_argument("--checkpoint", help="step-<n> or best; the newest when left out")
    parser.add_argument("--prompt", default="", help="text to go on from; empty begins a document")
    parser.add_argument("--tokens", type=int, default=200, help="how many to write at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest")
    parser.add_argument("--top-k", type=int, default=None, help="draw from so many likeliest tokens")
    parser.add_argument("--seed", type=int, default=0)
    return answer(parser, complete, lambda result: f"{result['prompt']}{result['text']}")


if __name__ == "__main__":
    sys.exit(main())
