"""Host memory into which a checkpoint is copied, so that training can go on while it is written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopies:
    """Copies of tensors, in memory that is kept and used again for the next checkpoint.

    From a CUDA device they go to pinned memory in the order of its stream: the host does not wait for them, and what is
    launched afterwards (the next update) does not begin before they are done.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        """By key; complete after ``wait``."""
        self._done: list[torch.cuda.Event] = []

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin to copy ``tensors``; the copies taken before are overwritten.

        Raises RuntimeError where there is no memory for them.
        """
        self.tensors = {key: self._room_for(key, tensor) for key, tensor in tensors.items()}
        for key, tensor in tensors.items():
            self.tensors[key].copy_(tensor, non_blocking=True)
        self._done = []
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            event.record(torch.cuda.current_stream(device))
            self._done.append(event)

    def wait(self) -> None:
        """Return when the copies are complete."""
        for event in self._done:
            event.synchronize()

    def _room_for(self, key: str, tensor: Tensor) -> Tensor:
        room = self.tensors.get(key)
        if room is not None and room.shape == tensor.shape and room.dtype == tensor.dtype:
            return room
        if tensor.is_cuda:
            try:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError:
                pass  # the system locks no more memory: ordinary memory does too, only the host then waits
        return torch.empty(tensor.shape, dtype=tensor.dtype)
