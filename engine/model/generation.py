"""Text from a trained network, one token after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.contract.errors import TraindeckError
from engine.model.build import LanguageModel
from engine.model.cache import Cache

NextLogits = Callable[[Tensor], Tensor]
"""Logits (vocabulary,) of the token that follows ``tokens`` (1, n)."""


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
    was_training = model.training
    model.eval()
    try:
        return continue_tokens(
            CachedReader(model, context),
            prompt,
            new_tokens=new_tokens,
            temperature=temperature,
            top_k=top_k,
            generator=generator,
            eos_id=eos_id,
            vocabulary=vocabulary,
        )
    finally:
        model.train(was_training)


def continue_tokens(
    read: NextLogits,
    prompt: Tensor,
    *,
    new_tokens: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
    vocabulary: int | None = None,
) -> Tensor:
    """As :func:`generate`, from whatever ``read`` says of the tokens so far."""
    _check(prompt, new_tokens, temperature, top_k)
    tokens = prompt
    for _ in range(new_tokens):
        chosen = _choose(read(tokens)[:vocabulary], temperature, top_k, generator)
        tokens = torch.cat((tokens, chosen), dim=1)
        if eos_id is not None and int(chosen) == eos_id:
            break
    return tokens


class CachedReader:
    """A model that remembers what it has read, so that each token costs one step."""

    def __init__(self, model: LanguageModel, context: int) -> None:
        """Raises TraindeckError for a ``context`` without a position."""
        if context < 1:
            raise TraindeckError("Nothing can be generated", f"The context has {context} tokens")
        self._model = model
        self._context = context
        self._cache: Cache | None = None
        self._start = 0
        self._read = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """As :data:`NextLogits`; ``tokens`` are those of the last call and more."""
        unbounded = self._model.shape.family == "lstm"
        start = 0 if unbounded else window_start(tokens.shape[1], self._context)
        if self._cache is None or start != self._start:
            self._cache, self._start, self._read = self._model.new_cache(self._context), start, start
        fresh = tokens[:, self._read :]
        self._read = tokens.shape[1]
        # Never the compiled network: the cache grows with each token, for which it would be compiled anew.
        logits: Tensor = self._model.forward(fresh, self._cache)
        return logits[0, -1]


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


def _check(prompt: Tensor, new_tokens: int, temperature: float, top_k: int | None) -> None:
    if prompt.ndim != 2 or prompt.shape[0] != 1 or prompt.shape[1] == 0:
        raise TraindeckError("The prompt has no tokens", "There is nothing to continue", "Give at least one character")
    if new_tokens < 0:
        raise TraindeckError("Nothing can be generated", f"{new_tokens} new tokens")
    if not temperature >= 0:
        raise TraindeckError("The temperature is below 0", f"It is {temperature:g}", "0 is greedy, 1 is as trained")
    if top_k is not None and top_k < 1:
        raise TraindeckError("top_k is below 1", f"It is {top_k}", "Leave it out to draw from all tokens")
