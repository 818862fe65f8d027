"""Which kinds of pictures a network learned about in the same layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from modeledit.errors import ModelEditError

Floats = npt.NDArray[np.float64]
Distance = Literal["correlation", "euclidean"]


@dataclass(frozen=True, eq=False)
class Clusters:
    """names (V,); correlation (V, V) of the rows; distances (V, V); linkage as scipy's, by average;
    order: the leaves as a dendrogram has them."""

    names: tuple[str, ...]
    correlation: Floats
    distances: Floats
    linkage: Floats
    order: tuple[int, ...]

    def nearest(self, name: str) -> str:
        """The row closest to another."""
        place = self.names.index(name)
        gaps = self.distances[place].copy()
        gaps[place] = np.inf
        return self.names[int(gaps.argmin())]

    def split(self, count: int) -> tuple[tuple[str, ...], ...]:
        """The names in that many clusters, in order of the leaves."""
        labels = hierarchy.fcluster(self.linkage, count, "maxclust")
        groups: dict[int, list[str]] = {}
        for place in self.order:
            groups.setdefault(int(labels[place]), []).append(self.names[place])
        return tuple(tuple(members) for members in groups.values())


def cluster(names: tuple[str, ...], rows: Floats, distance: Distance) -> Clusters:
    """Average linkage of the rows (V, L): 1 minus Pearson's correlation, or Euclidean distance.

    A row without variation correlates with none (0). Two rows and two columns are needed at least.
    """
    if len(rows) < 2 or rows.shape[1] < 2:
        raise ModelEditError(
            f"{len(rows)} kinds of pictures in {rows.shape[1]} layers cannot be clustered: give at "
            "least two of both"
        )
    centred = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    correlation = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(correlation, 1.0)
    if distance == "correlation":
        distances = 1 - correlation
    else:
        distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    distances = (distances + distances.T) / 2
    linkage = hierarchy.linkage(squareform(distances, checks=False), "average")
    order = tuple(int(place) for place in hierarchy.leaves_list(linkage))
    return Clusters(names, correlation, distances, linkage, order)
