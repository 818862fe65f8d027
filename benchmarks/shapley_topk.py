"""The k filters of largest Shapley value, by ours and by the published bandit; errors beside.

    python benchmarks/shapley_topk.py demo-48 --reference 80000 --sections gate top
    python benchmarks/shapley_topk.py cifar10-512 --data folder:cifar10.zip --checkpoint FILE

Games: demo-48, early layers, and demo-64, the next two, accuracy; demo-256, the last shortcut, and
cifar10-512, layer4.1.conv2 of a ResNet-18, probability (accuracy hardly depends on these). Options
of ours were compared on all but demo-256.

top: the same k and delta, for those of ours that stop by themselves. The tolerance is a share of
(V(all) - V(none)) / n, an equal share, so that games of any size can be told apart. A run fails if
a chosen filter lies below the reference's threshold by more than the tolerance, or one left out
above it. Seconds of the processor: evaluations times what one costs, measured here, by full passes
for the bandit, by the engine with their fits for ours, and the prior's.
error: relative L2 error at --budgets evaluations, beside shapiq's; with priors: gate-ig's values by
both paths, as neuron-shapley has them, or one. gate: rank correlation and error of gate-ig, in
forward-equivalents; an accuracy is replaced by the probability there.

The reference is a long run of antithetic permutations, where evaluations are cheap the mean of one
and of one of cmcs. Where logits are affine in the coalition (checked), evaluations other than the
timed ones are read off n + 1 of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine_games import Affine
from filter_games import Kept, played
from scipy.stats import spearmanr
from shapley import THEIRS, relative
from shapley_topk_table import show
from unlearning import HERE, load

import modeledit
from modeledit.games import GameSpec, Metric
from modeledit.gate_orders import gate_orders
from modeledit.gate_path import gate_ig
from modeledit.runtime import Runtime
from modeledit.shapley import Estimator, Floats
from modeledit.shapley.cmcs import Cmcs
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.leverage_top import LeverageTop
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.racing import Racing
from modeledit.shapley.running import Budget, run
from modeledit.shapley.tmab import Tmab
from modeledit.surgery import evaluating

GAMES: dict[str, tuple[str, Metric]] = {
    "demo-48": ("stem.conv,stages.0.0.conv1_kxk.conv,stages.0.0.attn.fc1", "accuracy"),
    "demo-64": ("stages.0.0.conv2_1x1.conv,stages.0.0.shortcut.conv.conv", "accuracy"),
    "demo-256": ("stages.3.0.shortcut.conv.conv", "probability"),
    "cifar10-512": ("layer4.1.conv2", "probability"),
}
TIMED = 20  # full forwards
BANDIT = "published bandit"
OURS: dict[str, Callable[[], Estimator]] = {
    "permutation": Permutation,
    "antithetic": Antithetic,
    "cmcs": Cmcs,
    "leverage-centred": LeverageCentred,
}
PRIORS = {"priors": ("straight", "orders"), "straight prior": ("straight",)}
STEPS = {"straight": 4, "orders": 10}
Rows = Iterator[tuple[tuple[Any, ...], Callable[[], dict[str, Any]]]]


@dataclass(frozen=True)
class Field:
    """One game, its reference, and what an evaluation costs."""

    name: str
    options: argparse.Namespace

    @cached_property
    def spec(self) -> GameSpec:
        patterns, metric = GAMES[self.name]
        options, dataset = self.options, self.name.partition("-")[0]
        baseline = load(dataset, options.data, options.checkpoint, 0, None)
        return played(baseline, patterns, metric, options.images)

    @cached_property
    def game(self) -> Affine | Kept:
        opened = self.spec.open()
        if GAMES[self.name][1] == "accuracy":
            return Kept(opened, self.options.cache, f"{self.name} {self.options.images}")
        return Affine.of(opened, GAMES[self.name][1])

    @cached_property
    def reference(self) -> tuple[Floats, float]:
        """(n,), and its relative standard error."""
        kinds = (Antithetic(), Cmcs()) if isinstance(self.game, Affine) else (Antithetic(),)
        share = Budget(self.options.reference // len(kinds))
        runs = [run(self.game, kind, seed=1_000_003, budget=share) for kind in kinds]
        values = np.mean([each.values[:, 0] for each in runs], axis=0)
        errors = [float(np.linalg.norm(each.half_width / 1.96)) for each in runs]
        return values, float(np.linalg.norm(errors) / len(runs) / np.linalg.norm(values))

    @cached_property
    def cost(self) -> dict[str, float]:
        """Seconds of an evaluation."""
        full, seconds = replace(self.spec, path="full").open(), {}
        alive = torch.ones(full.players, dtype=torch.bool)
        start = time.process_time()
        for player in range(TIMED):
            alive[player] = False
            full.value(alive)
        seconds[BANDIT] = (time.process_time() - start) / TIMED
        opened = self.spec.open()
        start, count = time.process_time(), 2 * opened.players
        run(opened, self.made("racing", 1.0, 0), seed=0, budget=Budget(count))
        seconds["racing"] = (time.process_time() - start) / count
        start = time.process_time()
        prior = self.prior(0)
        seconds["prior"] = time.process_time() - start
        start = time.process_time()
        run(opened, LeverageCentred(prior=prior), seed=0, budget=Budget(count))
        seconds["leverage-top"] = (time.process_time() - start) / count
        return seconds

    def prior(self, seed: int) -> Floats:
        """(n, 1, 2), as neuron-shapley has it."""
        paths = [self.gates(path, STEPS[path], seed)[0] for path in PRIORS["priors"]]
        return np.stack(paths, axis=2)

    def gates(self, path: str, steps: int, seed: int) -> tuple[Floats, float]:
        """(n, 1) values of gate-ig, and the forward-equivalents per image."""
        spec, runtime = self.spec, Runtime(seed=seed)
        parts = replace(spec.readings[0], metric="probability").parts
        integrate = gate_orders if path == "orders" else gate_ig
        given = (spec.model, spec.anatomy, spec.layers, spec.means, spec.batches, parts, runtime)
        with evaluating(spec.model):
            found = integrate(*given, steps)
        return found, runtime.meter.images / sum(len(batch.labels) for batch in spec.batches)

    def made(self, method: str, share: float, seed: int) -> Racing | LeverageTop | Tmab:
        given = {"k": self.options.k, "delta": self.options.delta}
        given["tolerance"] = share * self.reference[0].mean()
        if method == "racing":
            return Racing(**given)
        if method == "leverage-top":
            return LeverageTop(**given, prior=self.prior(seed))
        return Tmab(**given, published=True)


def top(field: Field) -> Rows:
    """Section top."""
    options, k = field.options, field.options.k

    def one(method: str, share: float, seed: int) -> dict[str, Any]:
        made = field.made(method, share, seed)
        found = run(field.game, made, seed=seed, budget=Budget(options.limit))
        before = field.cost["prior"] if method == "leverage-top" else 0.0
        wanted = field.reference[0]
        best, chosen = (np.argsort(-v, kind="stable")[:k] for v in (wanted, found.values[:, 0]))
        line = np.sort(wanted)[::-1][k - 1 : k + 1].mean()
        others = np.setdiff1d(np.arange(len(wanted)), chosen)
        away = max(line - wanted[chosen].min(), wanted[others].max() - line)
        return {
            "evaluations": found.evaluations,
            "seconds": found.evaluations * field.cost[method] + before,
            "overlap": len(np.intersect1d(chosen, best)) / k,
            "failed": bool(away > made.tolerance),
            "stopped": bool(found.resolved.all()),
            "tolerance": made.tolerance,
        }

    plan = [(kind, share, options.seeds) for kind in options.tops for share in options.shares]
    plan.append((BANDIT, options.shares[0], options.bandit_seeds))
    for method, share, seeds in plan:
        for seed in range(seeds):
            yield (method, share, seed), lambda m=method, f=share, s=seed: one(m, f, s)


def error(field: Field) -> Rows:
    """Section error."""

    def one(method: str, budget: int, seed: int) -> dict[str, Any]:
        kind, _, given = method.partition(", ")
        if kind in OURS:
            made = OURS[kind]()
            if given:
                paths = [field.gates(path, STEPS[path], seed)[0] for path in PRIORS[given]]
                made = LeverageCentred(prior=np.stack(paths, axis=2))
            values = run(field.game, made, seed=seed, budget=Budget(budget)).values[:, 0]
        else:
            import shapiq.approximator

            theirs = getattr(shapiq.approximator, method)(n=field.game.players, random_state=seed)
            values = theirs.approximate(budget, field.game.rows).get_n_order_values(1)
        return {"error": relative(values, field.reference[0])}

    for method in field.options.methods:
        for budget in field.options.budgets:
            for seed in range(field.options.error_seeds):
                yield (method, budget, seed), lambda m=method, b=budget, s=seed: one(m, b, s)


def gate(field: Field) -> Rows:
    """Section gate."""

    def one(path: str, steps: int, seed: int) -> dict[str, Any]:
        values, passes = field.gates(path, steps, seed)
        found, wanted = values[:, 0], field.reference[0]
        rank = float(spearmanr(found, wanted).statistic)
        return {"spearman": rank, "error": relative(found, wanted), "passes": passes}

    for path, steps, seeds in (
        ("straight", 4, 1),
        ("straight", 10, 1),
        ("orders", 4, 5),
        ("orders", 8, 5),
        ("orders", 10, 5),
    ):
        for seed in range(seeds):
            yield (path, steps, seed), lambda p=path, k=steps, s=seed: one(p, k, s)


SECTIONS: dict[str, Callable[[Field], Rows]] = {"top": top, "error": error, "gate": gate}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("games", nargs="+", choices=list(GAMES))
    parser.add_argument("--data", default="")
    parser.add_argument("--checkpoint", type=Path, default=Path())
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--methods", nargs="*", default=[*OURS, *THEIRS], help="of section error")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--reference", type=int, default=1_000_000, help="evaluations")
    parser.add_argument(
        "--tops", nargs="*", default=["racing", "leverage-top"], help="of section top"
    )
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--delta", type=float, default=0.2)
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0, 0.25])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--bandit-seeds", type=int, default=3)
    parser.add_argument("--error-seeds", type=int, default=3)
    parser.add_argument("--budgets", nargs="+", type=int, default=[250, 500, 1000, 2000, 4000])
    parser.add_argument("--limit", type=int, default=5_000_000, help="evaluations of a run")
    parser.add_argument("--cache", type=Path, default=Path("shapley-cache"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    log = options.results / "shapley-topk.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["section"], row["game"], tuple(row["key"])) for row in rows}
    for name in options.games:
        field = Field(name, options)
        for section in options.sections:
            for key, compute in SECTIONS[section](field):
                if (section, name, key) in done:
                    continue
                row = {"section": section, "game": name, "key": list(key), **compute()}
                row |= {"images": options.images, "reference_error": field.reference[1]}
                row |= {"reference": options.reference, "k": options.k, "delta": options.delta}
                row["versions"] = modeledit.versions()
                rows.append(row)
                with log.open("a") as file:
                    file.write(json.dumps(row, sort_keys=True) + "\n")
                print(section, name, *key, flush=True)
    show(rows, log.with_suffix(".md"))


if __name__ == "__main__":
    sys.exit(main())
