"""Which scorer and editor each job begins with; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AUTO = "auto"  # for a scorer: the job's candidates are tried, and the best on validation is taken
SCORER = {"unlearn": "stepwise-peps", "repair": "stepwise-cells", "harden": AUTO}
EDITOR = {"unlearn": "zero", "repair": "zero", "harden": "zero"}
EPS, STEPS = 8 / 255, 20  # of the attack that `harden` begins with

# Where an attacked image looks like its target to the last layers, it is told apart only further in
# front: small steps, since weights there serve everything, on fewer images, as each runs the whole
# network.
ALL_LAYERS = {"share": 1.0, "step": 0.06, "kappa": 0.0, "lam": 20.0, "rounds": 30}
# What an attack pushes far into its target is told apart by its images on the way there.
ON_THE_WAY = {"along": 8, "deepest": 4.0, "inputs": 4096, "lam": 5.0, "rounds": 36}
FEWER_IMAGES = {"retain_inputs": 2048, "fraction": 0.25}
# {job: {candidate: (scorer, options)}}, the cheapest first.
CANDIDATES: Mapping[str, Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "harden": {
        "last layers": ("stepwise-peps", {}),
        "all layers": ("stepwise-peps", ALL_LAYERS | FEWER_IMAGES),
    }
}
