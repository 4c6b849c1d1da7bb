"""Text from a trained network, one token after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.contract.errors import TraindeckError
from engine.model.build import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    *,
    new_tokens: int,
    temperature: float,
    top_k: int | None,
    context: int,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
    vocabulary: int | None = None,
) -> Tensor:
    """``prompt`` (1, n) with up to ``new_tokens`` more, (1, n + m).

    ``temperature`` 0 takes the likeliest token. ``top_k`` None draws from all; ``vocabulary`` keeps out the
    padding rows of the embedding. Ends early after ``eos_id``. ``context`` is the longest sequence that the
    decoder may see, see :func:`window_start`; an LSTM carries its state on for ever.
    Raises TraindeckError for a prompt without tokens or sizes that make no sense.
    """
    _check(prompt, new_tokens, temperature, top_k, context)
    was_training = model.training
    model.eval()
    try:
        unbounded = model.shape.family == "lstm"
        tokens = prompt
        start = 0 if unbounded else window_start(tokens.shape[1], context)
        cache = model.new_cache(context)
        fresh = tokens[:, start:]
        for _ in range(new_tokens):
            logits = model(fresh, cache)[0, -1]
            fresh = _choose(logits[:vocabulary], temperature, top_k, generator)
            tokens = torch.cat((tokens, fresh), dim=1)
            if eos_id is not None and int(fresh) == eos_id:
                break
            if not unbounded and window_start(tokens.shape[1], context) != start:
                start = window_start(tokens.shape[1], context)
                cache = model.new_cache(context)
                fresh = tokens[:, start:]
        return tokens
    finally:
        model.train(was_training)


def window_start(length: int, context: int) -> int:
    """The first of ``length`` tokens that the decoder sees.

    When the window is full its older half is dropped and the rest read again from position 0. What is
    seen thus never leaves the positions that were trained, and reading again costs two steps per token on average
    instead of ``context``.
    """
    if length <= context:
        return 0
    stride = max(1, context // 2)
    return -(-(length - context) // stride) * stride


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One id, (1, 1), on the device of the logits (vocabulary,)."""
    if temperature == 0:
        return logits.argmax().view(1, 1)
    scaled = logits.float() / temperature
    if generator is not None:
        scaled = scaled.to(generator.device)
    if top_k is not None and top_k < scaled.numel():
        values, ids = torch.topk(scaled, top_k)
        choice = ids[torch.multinomial(values.softmax(-1), 1, generator=generator)]
    else:
        choice = torch.multinomial(scaled.softmax(-1), 1, generator=generator)
    return choice.view(1, 1).to(logits.device)


def _check(prompt: Tensor, new_tokens: int, temperature: float, top_k: int | None, context: int) -> None:
    if prompt.ndim != 2 or prompt.shape[0] != 1 or prompt.shape[1] == 0:
        raise TraindeckError("The prompt has no tokens", "There is nothing to continue", "Give at least one character")
    if new_tokens < 0 or context < 1:
        raise TraindeckError("Nothing can be generated", f"{new_tokens} new tokens in a context of {context}")
    if not temperature >= 0:
        raise TraindeckError("The temperature is below 0", f"It is {temperature:g}", "0 is greedy, 1 is as trained")
    if top_k is not None and top_k < 1:
        raise TraindeckError("top_k is below 1", f"It is {top_k}", "Leave it out to draw from all tokens")
