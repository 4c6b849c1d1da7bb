"""What is in this machine (:func:`detect`) and how busy it is (:class:`engine.hardware.sampler.Sampler`).

Importing this module loads neither psutil nor pynvml; looking does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.contract.machine import Machine
from engine.hardware.sampler import Sampler

__all__ = ["Sampler", "detect"]


def detect(environment: Mapping[str, str] = os.environ) -> Machine:
    """The devices of this host as torch would see and number them, accelerators first, the CPU last.

    ``CUDA_VISIBLE_DEVICES`` is honoured. What cannot be read is None; a device that is there but cannot be used
    carries its ``problem``.
    """
    sampler = Sampler(environment=environment)
    try:
        return sampler.machine()
    finally:
        sampler.close()
