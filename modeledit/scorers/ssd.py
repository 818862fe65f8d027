"""Fisher ratio of selective synaptic dampening: forget examples against all examples.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning without Retraining through Selective Synaptic
Dampening", AAAI 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from modeledit.data import Batch
from modeledit.gradients import example_gradients, mean_gradient, select_parameters
from modeledit.measures import Effect
from modeledit.product_space import Expectation
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice, whole
from modeledit.scorers._parts import Tensors, inputs, names
from modeledit.types import Granularity


@dataclass(frozen=True)
class Ssd(Scorer):
    """E_forget[g^2] / E_all[g^2], g the gradient of the cross-entropy: >= 0; 0 where both are 0.

    expectation: batch squares the gradient of the mean of `group` examples, as the public code of
    the method does (a batch of n has squares about n times smaller); product squares per example,
    the Fisher diagonal of the paper. forget_inputs, all_inputs: examples drawn (the paper: every
    one). tensors: all or weights. One ranking over the whole net, as its threshold is.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight",)
    expectation: Expectation = "batch"
    forget_inputs: int = 512
    all_inputs: int = 2048
    group: int = 64
    tensors: Tensors = "all"

    def __post_init__(self) -> None:
        choice("expectation", self.expectation, Expectation)
        whole("forget_inputs", self.forget_inputs, 1)
        whole("all_inputs", self.all_inputs, 1)
        whole("group", self.group, 1)
        choice("tensors", self.tensors, Tensors)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        overall = min(self.all_inputs, shown + others)
        return 3 * (min(self.forget_inputs, shown) + overall)

    def run(self, job: Job) -> Found:
        """A gradient per group or example."""
        shown = job.target.mask(job.split.labels)
        forget = self._importance(job, inputs(job, shown, self.forget_inputs, self.group))
        everything = np.ones(len(job.split), dtype=bool)
        overall = self._importance(job, inputs(job, everything, self.all_inputs, self.group))
        largest = torch.finfo(torch.float32).max
        ratios = {name: forget[name] / overall[name] for name in forget}
        values = {n: r.nan_to_num(nan=0.0, posinf=largest) for n, r in ratios.items()}
        return Found(values, header={"allocation": "global"})

    def _importance(self, job: Job, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The mean of the squared gradients."""
        scored = names(job.anatomy, self.granularity, self.tensors)
        parameters = select_parameters(job.model, scored)
        meter = job.runtime.meter
        measure = Effect(None, None, power=2)
        with job.runtime.progress.stage("squared gradients", len(batches)) as tick:
            for batch in batches:
                if self.expectation == "batch":
                    measure.update(mean_gradient(job.model, parameters, [batch], "loss", meter))
                else:
                    for g in example_gradients(job.model, parameters, batch, "loss", meter):
                        measure.update(g)
                tick(1)
        return {name: measure.result(name) for name in scored}
