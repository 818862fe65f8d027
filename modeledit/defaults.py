"""Which scorer and editor each job begins with; nothing here needs torch."""

from __future__ import annotations

SCORER = {"unlearn": "stepwise-peps", "repair": "stepwise-cells", "harden": "stepwise-peps"}
EDITOR = {"unlearn": "zero", "repair": "zero", "harden": "zero"}
EPS, STEPS = 8 / 255, 20  # of the attack that `harden` begins with
