"""What of the model one rank holds: elements of its parameters, split over tp, and not yet over shards."""

from __future__ import annotations

import msgspec

from engine.contract.layout import Layout
from engine.contract.mesh import layers_at, stages_at
from engine.contract.shape import ModelShape
from engine.planner.shapes import parameter_breakdown


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of elements. Biases that tensor parallelism leaves whole are counted as split: they are no thousandth."""

    stages: tuple[int, ...]
    """Layers of each pipeline stage on this rank; of the whole model where there is no pipeline."""
    first: bool
    """Whether the embedding is here."""
    last: bool
    """Whether norm and head are here."""
    weight_sets: int
    """Layers with weights of their own."""
    layer: float
    """Of the matrices of one layer."""
    layer_norms: float
    largest_matrix: float
    """Of the largest matrix of a layer, whole: what Adafactor and Muon gather."""
    table: float
    """Rows times width of the embedding, or of the head."""
    position: float
    final: float
    """Of the last norm and of a bias of the head."""
    tied: bool
    """Whether one table serves as embedding and head here."""

    @property
    def layers_total(self) -> float:
        """Of all layers together."""
        return self.weight_sets * (self.layer + self.layer_norms)

    @property
    def tables(self) -> int:
        """Tables of the vocabulary on this rank. At the two ends of a pipeline each has its copy of a tied one."""
        return int(self.first) + int(self.last) - int(self.tied)

    @property
    def outer(self) -> float:
        """Of all that is in no layer."""
        return self.tables * self.table + self.first * self.position + self.last * self.final

    @property
    def total(self) -> float:
        return self.layers_total + self.outer

    def factored(self, shape: ModelShape) -> float:
        """Elements that Adafactor keeps: sums of the rows and columns of matrices, and vectors whole."""
        if shape.family == "lstm":
            in_layers = self.weight_sets * (2 * 5 * shape.hidden + self.layer_norms)
        else:
            queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
            sides = 2 * (shape.hidden + queries) + 2 * (shape.hidden + keys)
            sides += (3 if shape.mlp == "swiglu" else 2) * (shape.hidden + shape.feed_forward)
            in_layers = self.weight_sets * (sides + self.layer_norms)
        rows = shape.vocabulary + shape.hidden
        position = shape.positions + shape.hidden if shape.position == "learned" and self.first else 0
        return in_layers + self.tables * rows + position + self.last * self.final


def share_of(shape: ModelShape, layout: Layout, pp: int) -> Share:
    """What the ranks at position ``pp`` of the pipeline hold."""
    parts = layers_at(layout, pp, shape.layers)
    count = len(layout.stages) if layout.stages is not None else 1
    stages = stages_at(layout, pp) if layout.stages is not None else (0,)
    one = parameter_breakdown(msgspec.structs.replace(shape, layers=1, layer_groups=None))
    two = parameter_breakdown(msgspec.structs.replace(shape, layers=2, layer_groups=None))
    norms = two.norm - one.norm
    first, last = 0 in stages, count - 1 in stages
    table = shape.vocabulary * shape.hidden
    own_head = 0 if shape.tied_embeddings else table
    widths = (shape.heads * shape.head_size, shape.feed_forward, 4 * shape.hidden if shape.family == "lstm" else 0)
    return Share(
        stages=tuple(map(len, parts)),
        first=first,
        last=last,
        weight_sets=len({shape.weights_of(layer) for part in parts for layer in part}),
        layer=(one.attention + one.mlp + one.recurrent) / layout.tp,
        layer_norms=float(norms),
        largest_matrix=float(shape.hidden * max(widths)),
        table=table / layout.tp,
        position=one.position / layout.tp,
        final=float(one.norm - norms + one.head - own_head),
        tied=shape.tied_embeddings and layout.pp == 1,
    )
