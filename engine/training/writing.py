"""Text in, text out."""

from __future__ import annotations

import torch

from engine.contract.errors import TraindeckError
from engine.data.prepared import PreparedData
from engine.model.generation import NextLogits, continue_tokens


def write_text(
    read: NextLogits,
    device: torch.device,
    data: PreparedData,
    prompt: str,
    *,
    new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    stop_at_document_end: bool = False,
) -> str:
    """What follows ``prompt`` by what ``read`` says on ``device``, without the prompt. An empty one begins a document.

    Raises TraindeckError for a prompt that has no tokens.
    """
    tokenizer, end = data.tokenizer, data.manifest.eos_id
    ids = list(tokenizer.encode(prompt).ids)
    if not prompt and end is not None:
        ids = [end]
    if not ids:
        raise TraindeckError(
            "The prompt has no tokens", f"The tokenizer makes nothing of {prompt!r}", "Give some text to go on from"
        )
    written = continue_tokens(
        read,
        torch.tensor([ids], device=device),
        new_tokens=new_tokens,
        temperature=temperature,
        top_k=top_k,
        generator=torch.Generator("cpu").manual_seed(seed),
        eos_id=end if stop_at_document_end else None,
        vocabulary=data.manifest.vocabulary,
    )[0].tolist()
    # Tokens are decoded together with the prompt's: some tokenizers join or space them by what comes before.
    before = tokenizer.decode(ids)
    whole = tokenizer.decode(written)
    text: str = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(written[len(ids) :])
    return text
