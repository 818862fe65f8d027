"""Shapley values of filters: error against evaluations, the top k, whole networks.

    python benchmarks/shapley.py demo [--sections error prior whole]
    python benchmarks/shapley.py cifar10 --data folder:cifar10.zip --checkpoint FILE
    python benchmarks/shapley.py fashion-mnist --data idx:DIR --checkpoint FILE --sections whole \\
        --metrics accuracy --images 64 --truncation 0.05

error: relative L2 error of each estimator and of shapiq's, against a long run of antithetic
       permutations. prior: the gate path's rank correlation with it, and its cost. whole: overlap
       of the top 100 of all filters at a fixed number of evaluations, and by the priors alone;
       --truncation ends the walks of the long run, each of thousands of filters, once accuracy is
       that close to nobody's. The k largest with a stopping rule: shapley_topk.py.

Values of coalitions are kept in --cache and finished rows in RESULTS/shapley-DATASET.jsonl, so a
run that was stopped goes on where it was. --quick is for trying it out. shapiq: `pip install
shapiq`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filter_games import Arena, Kept
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from unlearning import HERE, load

from modeledit.shapley import Estimator, Floats
from modeledit.shapley.cmcs import Cmcs
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.running import Budget, run
from modeledit.shapley.tmab import Tmab

BUDGETS = (250, 500, 1_000, 2_000, 4_000)
SMALL = {"demo": "stem.conv,stages.0.0.conv1_kxk.conv,stages.0.0.attn.fc1", "cifar10": "conv1"}
LARGE = {"demo": "stages.3.0.conv3_1x1.conv,stages.3.0.shortcut.conv.conv"}
SMALL["fashion-mnist"] = "conv1"
LARGE["cifar10"] = "layer4.1.conv1"  # 512 filters, three layers before the end
LARGE["fashion-mnist"] = "layer4.1.conv1"
THEIRS = ("PermutationSamplingSV", "KernelSHAP", "SVARM")  # of shapiq


def estimators(prior: Floats) -> dict[str, Estimator]:
    return {
        "permutation": Permutation(),
        "antithetic": Antithetic(),
        "truncated": Permutation(truncation=0.05),
        "cmcs": Cmcs(),
        "leverage-centred": LeverageCentred(),
        "leverage-centred, prior": LeverageCentred(prior=prior),
    }


def theirs(name: str, game: Kept, budget: int, seed: int) -> Floats:
    """(n,) by shapiq."""
    import shapiq.approximator

    approximator = getattr(shapiq.approximator, name)(n=game.players, random_state=seed)
    values: Floats = approximator.approximate(budget, game.rows).get_n_order_values(1)
    return values


def relative(found: Floats, wanted: Floats) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def error(arena: Arena) -> Iterator[tuple[tuple[Any, ...], Callable[[], dict[str, Any]]]]:
    """Section error."""
    methods = [*estimators(np.zeros((1, 1))), *THEIRS]
    options = arena.options

    def one(method: str, budget: int, seed: int) -> dict[str, Any]:
        if method in THEIRS:
            values = theirs(method, arena.kept, budget, seed)
        else:
            chosen = estimators(arena.prior[0])[method]
            found = run(arena.kept, chosen, seed=seed, budget=Budget(budget))
            values = found.values[:, 0]
        return {
            "error": relative(values, arena.reference.values[:, 0]),
            "reference_error": arena.unsure,
        }

    for method in methods:
        for budget in options.budgets:
            for seed in options.seeds:
                yield (method, budget, seed), lambda m=method, b=budget, s=seed: one(m, b, s)


def prior(arena: Arena) -> Iterator[tuple[tuple[Any, ...], Callable[[], dict[str, Any]]]]:
    """Section prior."""

    def one() -> dict[str, Any]:
        values, passes = arena.prior
        wanted = arena.reference.values[:, 0]
        return {
            "spearman": float(spearmanr(values[:, 0], wanted).statistic),
            "error": relative(values[:, 0], wanted),
            "passes": passes,
        }

    yield ("gate-ig",), one


def whole(arena: Arena) -> Iterator[tuple[tuple[Any, ...], Callable[[], dict[str, Any]]]]:
    """Section whole: every layer."""
    options, k = arena.options, min(100, arena.kept.players // 4)

    def one(method: str, evaluations: int, seed: int) -> dict[str, Any]:
        chosen: dict[str, Callable[[], Estimator]] = {
            "published bandit": lambda: Tmab(k=k, truncation=0.2, published=True),
            "cmcs": Cmcs,
            "leverage-centred": LeverageCentred,
            "leverage-centred, priors": lambda: LeverageCentred(prior=arena.priors),
        }
        budget = Budget(evaluations)
        return beside(run(arena.kept, chosen[method](), seed=seed, budget=budget).values[:, 0])

    def guess(path: int) -> dict[str, Any]:
        return beside(arena.priors[:, 0, path])

    def beside(values: Floats) -> dict[str, Any]:
        wanted = arena.reference.values[:, 0]
        return {
            "k": k,
            "overlap": len(np.intersect1d(_largest(values, k), _largest(wanted, k))) / k,
            "error": relative(values, wanted),
            "reference_error": arena.unsure,
        }

    for path, name in enumerate(("gate-ig", "gate-ig, orders")):
        yield (name,), lambda p=path: guess(p)

    for method in ("published bandit", "cmcs", "leverage-centred", "leverage-centred, priors"):
        for evaluations in options.budgets:
            for seed in options.seeds:
                yield (
                    (method, evaluations, seed),
                    lambda m=method, e=evaluations, s=seed: one(m, e, s),
                )


def _largest(values: Floats, k: int) -> Floats:
    return np.argsort(-values, kind="stable")[:k]


SECTIONS = {"error": error, "prior": prior, "whole": whole}
SHOWN = ("error", "spearman", "overlap", "passes")


def summary(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Means over seeds: section, game, method, budget, and what was measured."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        parts = [str(part) for part in row["key"]]
        head = (row["section"], row["arena"], parts[0], parts[1] if len(parts) > 1 else "")
        groups.setdefault(head, []).append(row)
    lines = []
    for head, mine in groups.items():
        cells = []
        for name in SHOWN:
            found = [float(row[name]) for row in mine if row.get(name) is not None]
            cells.append(f"{statistics.mean(found):.4g}" if found else "")
        lines.append([*head, str(len(mine)), *cells])
    return lines


def show(rows: Sequence[dict[str, Any]], file: Path) -> None:
    heads = ["section", "game", "method", "evaluations", "seeds", *SHOWN]
    lines = summary(rows)
    table = Table(*heads)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    text = [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)]
    file.write_text("\n".join(text) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=sorted(SMALL))
    parser.add_argument("--data", default="")
    parser.add_argument("--checkpoint", type=Path, default=Path())
    parser.add_argument("--sections", nargs="+", default=["error", "prior"], choices=list(SECTIONS))
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--layers", help="comma-separated patterns, instead of --size")
    parser.add_argument("--metrics", nargs="+", default=["accuracy", "loss"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--reference", type=int, default=100_000, help="evaluations")
    parser.add_argument("--truncation", type=float, help="of the reference's walks")
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("shapley-cache"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.images, chosen.reference, chosen.budgets, chosen.seeds = 30, 400, [60, 120], [0]
    return chosen


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    log = options.results / f"shapley-{options.dataset}{'-quick' * options.quick}.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["section"], row["arena"], tuple(row["key"])) for row in rows}
    baseline = load(options.dataset, options.data, options.checkpoint, 0, None)
    sizes = {"small": SMALL, "large": LARGE}[options.size]
    for section in options.sections:
        layers = "" if section == "whole" else options.layers or sizes[options.dataset]
        for metric in options.metrics:
            arena = Arena(baseline, options, layers, metric)
            for key, compute in SECTIONS[section](arena):
                if (section, arena.name, key) in done:
                    continue
                row = {"section": section, "key": list(key), **arena.row, **compute()}
                rows.append(row)
                with log.open("a") as file:
                    file.write(json.dumps(row, sort_keys=True) + "\n")
                print(section, arena.name, *key, flush=True)
    show(rows, log.with_suffix(".md"))


if __name__ == "__main__":
    sys.exit(main())
