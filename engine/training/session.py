"""A training in progress: everything that its loop works with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from lightning.fabric import Fabric
from torch.optim import Optimizer

from engine.contract.events import State
from engine.contract.states import RunStateName
from engine.parallel.gradients import Gradients
from engine.parallel.mesh import Mesh
from engine.parallel.network import Network
from engine.parallel.precision import ShardedScaler
from engine.training.budget import Budget
from engine.training.checkpoint import Content, Position
from engine.training.checkpointer import Checkpointer
from engine.training.clock import Clock
from engine.training.control import Control, Decision
from engine.training.devices import Ranks
from engine.training.health import LossWatch, weights_are_finite
from engine.training.inputs import Inputs
from engine.training.reporter import Reporter
from engine.training.stepbatches import StepBatches


@dataclass(kw_only=True)
class Session:
    """The parts of one worker. Only the counters at the end change while it trains."""

    inputs: Inputs
    fabric: Fabric
    ranks: Ranks
    mesh: Mesh | None
    """None where there is one rank."""
    network: Network
    """What this rank has of the model."""
    gradients: Gradients
    optimiser: Optimizer
    scaler: ShardedScaler | None
    """Where small gradients would vanish in the number format."""
    batches: StepBatches
    budget: Budget
    reporter: Reporter
    control: Control
    clock: Clock
    checkpointer: Checkpointer
    watch: LossWatch = field(default_factory=LossWatch)

    step: int = 0
    """Updates done."""
    samples: int = 0
    """Trained; the next batch begins with this global sample index."""
    tokens: int = 0
    elapsed_seconds: float = 0.0
    """As all ranks agreed after the last step."""
    logged_step: int = 0
    validated_step: int | None = None
    validation_loss: float | None = None
    """At ``validated_step``."""
    sampled_step: int | None = None
    """On rank 0."""
    begun_step: int | None = None
    """Of the newest checkpoint that was begun."""
    saved_step: int | None = None
    """Of the newest checkpoint that is on disk, as far as this rank has noticed."""
    finished_step: int | None = None
    """Of the newest checkpoint that is on disk or has failed, as far as this rank has noticed."""
    awaiting: list[Decision] = field(default_factory=list)
    """What is to be acknowledged when the checkpoint of ``begun_step`` is on disk."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.fabric.device
        return device

    @property
    def tokens_per_step(self) -> int:
        return self.inputs.layout.batch_size * self.inputs.spec.data.sequence_length

    @property
    def gradient_scale(self) -> float:
        """What the sum of a rank's losses is multiplied by, so that the mean over all ranks of the gradients is the
        gradient of the mean loss of a token, however many each rank has."""
        ranks = 1 if self.mesh is None else self.mesh.gradient_ranks
        return ranks / self.tokens_per_step

    @property
    def content(self) -> Content:
        """What a checkpoint of this training is of."""
        return Content(
            shape=self.inputs.shape,
            optimiser=self.inputs.spec.optim.name,
            data_fingerprint=self.inputs.data.manifest.fingerprint,
        )

    @property
    def position(self) -> Position:
        scale = {} if self.scaler is None else self.scaler.state_dict()
        return Position(
            step=self.step,
            samples=self.samples,
            tokens=self.tokens,
            elapsed_seconds=self.clock.elapsed(),
            loss_scale=scale.get("scale"),
            loss_scale_age=scale.get("_growth_tracker"),
        )

    def limit_reached(self) -> str | None:
        """The limit of the budget that ends the training here, by the numbers that all ranks share."""
        return self.budget.reached(
            step=self.step, samples=self.samples, tokens=self.tokens, elapsed_seconds=self.elapsed_seconds
        )

    def weights_are_finite(self) -> bool:
        """Whether no weight is infinite or NaN on any rank; every rank asks at the same point, all hear the same."""
        (spoilt,) = self.ranks.highest([not weights_are_finite(self.network.parts)])
        return not spoilt

    def advance(self) -> None:
        """Count one more update."""
        self.step += 1
        self.samples += self.inputs.layout.batch_size
        self.tokens += self.tokens_per_step
        self.reporter.step = self.step

    def tell_state(self, state: RunStateName, reason: str = "") -> None:
        self.reporter.emit(State(state=state, reason=reason))
