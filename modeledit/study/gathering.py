"""All four PEPS measures per weight and per filter from one round of gradients."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.gradients import Scalar
from modeledit.measures import NOTHING, Consistency, Mean, Measure, Stability, Variance
from modeledit.product_space import Neighbourhood, Space, explore
from modeledit.runtime import Runtime
from modeledit.scorers._parts import Filters
from modeledit.units import survey

MEASURES = ("ig", "gradient-variance", "stability", "consistency")
PER = ("weight", "filter")
Values = dict[tuple[str, str], dict[str, Tensor]]  # {(measure, per): {parameter: values}}


class Panel(Measure):
    """Feeds every measure with the same gradients; what they find is in `found`.

    Per filter, the first two are means over its weights, the others cosines of its whole vector.
    """

    compares = True

    def __init__(self, filters: Filters, holders: frozenset[str]) -> None:
        super().__init__()
        self.found: Values = {(m, per): {} for m in MEASURES for per in PER}
        self._filters, self._holders = filters, holders
        self._single: dict[str, Measure] = {
            "ig": Mean(),
            "gradient-variance": Variance(),
            "stability": Stability(None),
            "consistency": Consistency(None),
        }
        self._vector: dict[str, Measure] = {
            "stability": Stability(filters),
            "consistency": Consistency(filters),
        }

    def keep(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the base."""
        return dict(gradient)

    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        moved = NOTHING if offset is None else {name: offset}
        before = NOTHING if clean is None else {name: clean}
        fed = list(self._single.values())
        if name in self._holders:
            fed += self._vector.values()
        for measure in fed:
            measure.update({name: g}, moved, before)

    def result(self, name: str) -> Tensor:
        """See the base; the integrated gradient stands for all."""
        for kind, measure in self._single.items():
            self.found[kind, "weight"][name] = measure.result(name)
        if name in self._holders:
            for kind in ("ig", "gradient-variance"):
                rows = self._filters(name, self.found[kind, "weight"][name])
                self.found[kind, "filter"][name] = rows.mean(1)
            for kind, measure in self._vector.items():
                self.found[kind, "filter"][name] = measure.result(name)
        return self.found["ig", "weight"][name]


def gather(
    model: nn.Module,
    shown: Split,
    *,
    eps: float,
    samples: int,
    f: Scalar,
    neighbourhood: Neighbourhood,
    runtime: Runtime,
) -> Values:
    """Every measure over the images of `shown` and `samples` perturbations of radius eps.

    Parameters outside the classifier, on the CPU; the model is not touched. Raises ModelEditError
    where perturbations lead to numbers that are not finite.
    """
    work = copy.deepcopy(model).to(runtime.device).eval()
    anatomy = survey(work, shown.example())
    original = {name: p.detach().clone() for name, p in work.named_parameters()}
    space = Space(
        model=work,
        original=original,
        names=anatomy.parameters,
        runtime=runtime,
        f=f,
        neighbourhood=neighbourhood,
        eps=eps,
        samples=samples if eps else 1,
    )
    holders = {layer.weight[0] for layer in anatomy.layers.values()}
    panel = Panel(Filters(anatomy), frozenset(holders & set(anatomy.parameters)))
    explore(space, list(shown.batches(runtime)), panel)
    for by_name in panel.found.values():
        for name, values in by_name.items():
            if not bool(values.isfinite().all()):
                raise ModelEditError(
                    f"gradients of {name} at radius {eps:g} are not finite: use a smaller --eps, "
                    "or --neighbourhood tensor"
                )
    return {k: {n: t.cpu() for n, t in by_name.items()} for k, by_name in panel.found.items()}
