"""First-order effect of a weight or filter on the loss of the target's examples: |w * g|."""

from __future__ import annotations

from dataclasses import dataclass

from modeledit.measures import Effect
from modeledit.product_space import Expectation, Space, explore
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice, whole
from modeledit.scorers._parts import Filters, Tensors, inputs, names


@dataclass(frozen=True)
class Taylor(Scorer):
    """|E w * g| (expectation=batch) or E |w * g| over single examples (product): >= 0.

    g is the gradient of the cross-entropy; a filter's w * g is summed over its weights first.
    tensors: weights or all, when scoring by weight. Molchanov et al., CVPR 2019, eq. 8, unsquared.
    """

    expectation: Expectation = "batch"
    inputs: int = 128
    tensors: Tensors = "weights"

    def __post_init__(self) -> None:
        choice("expectation", self.expectation, Expectation)
        whole("inputs", self.inputs, 1)
        choice("tensors", self.tensors, Tensors)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del others, tensors
        return 3 * min(self.inputs, shown)

    def run(self, job: Job) -> Found:
        """One gradient over the examples, or one for each."""
        filters = Filters(job.anatomy) if self.granularity == "filter" else None
        scored = names(job.anatomy, self.granularity, self.tensors)
        space = Space(
            job.model, job.original, scored, job.runtime, "loss", expectation=self.expectation
        )
        shown = inputs(job, job.target.mask(job.split.labels), self.inputs)
        found = explore(space, shown, Effect(space.weights(), filters, power=1))
        return Found(filters.layers(found) if filters else found)
