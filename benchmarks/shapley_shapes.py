"""The shapes of Neuron Shapley (Ghorbani & Zou 2020), on a network of one's own choice.

    python benchmarks/shapley_shapes.py demo
    python benchmarks/shapley_shapes.py demo --filter-dropout 0.1
    python benchmarks/shapley_shapes.py cifar10 --data folder:cifar10.zip --checkpoint FILE
    python benchmarks/shapley_shapes.py torchvision:squeezenet1_1 --data folder:cifar10.zip \\
        --checkpoint FILE --agreement --layers 'features.*'

curve: accuracy on test images after the top filters of each ranking are pinned to their mean
output. depth: mean position, 0 (first layer) to 1 (last), of the top filters, for all classes and
for single ones. --agreement takes the intact network's own top class as the label, for networks
whose classes the images do not have, and its most frequent answers as the single classes; with
--sure only on images that it recognises best.
--filter-dropout P trains the demo's network anew by its own recipe with whole filters left out at
random; 0 is the same training without. Results go to RESULTS/shapley-shapes-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filter_games import images_of, played
from relabelled import answered
from unlearning import HERE, load

import modeledit
from modeledit.data import Batch
from modeledit.demo.train import train
from modeledit.games import GameSpec, by_class
from modeledit.gate_orders import gate_orders
from modeledit.gate_path import gate_ig
from modeledit.judging import Baseline
from modeledit.models import LoadedModel
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.shapley import Floats
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.running import Budget, run
from modeledit.surgery import edited, evaluating, pins
from modeledit.targets import Accuracy
from modeledit.types import EditPlan, Unit

COUNTS = (0, 10, 20, 30)
DRAWS = 5  # of random filters
SURE = 4  # times as many images are drawn as the surest that are kept
FREQUENT = 3  # classes whose filters' depth is measured, by agreement
PATHS = ((gate_ig, 4), (gate_orders, 10))  # and their steps


def opened(options: argparse.Namespace) -> Baseline:
    """A data set of the other benchmarks, or a network by its specification."""
    if options.filter_dropout is not None:
        data = load("demo", "", Path(), 0, None).data
        network = train(options.epochs, options.seed, options.filter_dropout)
        return Baseline(LoadedModel.of(network), data)
    if not options.agreement:
        return load(options.network, options.data, options.checkpoint, 0, None)
    loaded = modeledit.load_model(options.network, options.checkpoint)
    most = max(options.images, options.tested)
    drawn = SURE * most if options.sure else most
    found = modeledit.load_data(options.data, loaded.preprocessing, limit=drawn)
    return answered(loaded, found, most)


def values(spec: GameSpec, evaluations: int, seed: int) -> tuple[tuple[Unit, ...], Floats]:
    """The players and their (n, m) Shapley values of accuracy, with both gate paths as priors."""
    game = spec.open()
    parts = [replace(each, metric="probability").parts for each in spec.readings]
    given = (spec.model, spec.anatomy, spec.layers, spec.means, spec.batches)
    guesses = [
        np.concatenate([path(*given, part, Runtime(seed=seed), steps) for part in parts], axis=1)
        for path, steps in PATHS
    ]
    all_units = [Unit(n, i) for n in spec.layers for i in range(spec.anatomy.layers[n].units)]
    at = {unit: place for place, unit in enumerate(all_units)}
    units = game.networks.units
    prior = np.stack(guesses, axis=2)[[at[unit] for unit in units]]
    found = run(game, LeverageCentred(prior=prior), seed=seed, budget=Budget(evaluations))
    return units, found.values


def rankings(
    baseline: Baseline, units: Sequence[Unit], shapley: Floats, seed: int
) -> dict[str, list[Floats]]:
    """{name: rankings, each positions of units, the first to go first}"""
    model, train = baseline.loaded.module, baseline.data.train
    found = {"Shapley": [np.argsort(-shapley, kind="stable")]}
    for name, scorer in (("largest norm", "magnitude"), ("most active", "response-norm")):
        made = replace(create("scorers", scorer), granularity="filter")  # type: ignore[call-arg]
        scores = made(model, train, Accuracy(), Runtime(seed=seed)).values
        flat = np.array([float(scores[unit.layer][unit.index]) for unit in units])
        found[name] = [np.argsort(-flat, kind="stable")]
    rng = np.random.default_rng(seed)
    found["random"] = [rng.permutation(len(units)) for _ in range(DRAWS)]
    return found


def accuracy(spec: GameSpec, units: Sequence[Unit], batches: Sequence[Batch]) -> float:
    """Of the network with these units written to their constants."""
    layers = sorted({unit.layer for unit in units})
    chosen = {n: torch.tensor([u.index for u in units if u.layer == n]) for n in layers}
    changes, _ = pins(spec.model, spec.anatomy, chosen, spec.means)
    right = []
    plan = EditPlan(changes)
    with edited(spec.model, plan) as model, torch.inference_mode(), evaluating(model):
        right = [(model(b.images).argmax(1) == b.labels).double() for b in batches]
    return float(torch.cat(right).mean())


def depth(spec: GameSpec, units: Sequence[Unit], values: Floats, count: int) -> float:
    """Mean position of the top filters, 0 to 1."""
    place = {name: i / max(len(spec.layers) - 1, 1) for i, name in enumerate(spec.layers)}
    return float(np.mean([place[units[i].layer] for i in np.argsort(-values)[:count]]))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    baseline = opened(options)
    data = baseline.data
    spec = played(baseline, options.layers, "accuracy", options.images)
    tested = images_of(data.test, options.tested)[0]
    labels = torch.cat([batch.labels for batch in spec.batches]).cpu().numpy()
    classes = options.classes
    if options.agreement:
        classes = np.bincount(labels).argsort(kind="stable")[: -FREQUENT - 1 : -1].tolist()
    spec = replace(spec, readings=(*spec.readings, by_class("accuracy", labels, classes)))
    units, found = values(spec, options.evaluations, options.seed)
    ranked = rankings(baseline, units, found[:, 0], options.seed)
    curve = {
        name: {
            count: float(
                np.mean([accuracy(spec, [units[i] for i in o[:count]], tested) for o in orders])
            )
            for count in options.counts
        }
        for name, orders in ranked.items()
    }
    most = max(options.counts)
    names = ["all", *(data.class_names[c] for c in classes)]
    depths = {n: depth(spec, units, found[:, j], most) for j, n in enumerate(names)}
    return {
        "network": options.network,
        "filters": len(units),
        "layers": options.layers,
        "sure": options.sure,
        "evaluations": options.evaluations,
        "filter_dropout": options.filter_dropout,
        "images": options.images,
        "tested": sum(len(batch.labels) for batch in tested),
        "labels": "the intact network's" if options.agreement else "the data's",
        "curve": curve,
        "depth": depths,
        "model": baseline.digest,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "versions": modeledit.versions(),
    }


def show(result: dict[str, Any], file: Path) -> None:
    counts = [str(count) for count in next(iter(result["curve"].values()))]
    heads = ["removed", *counts]
    lines = [[n, *(f"{v:.3f}" for v in row.values())] for n, row in result["curve"].items()]
    text = [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)]
    depths = ", ".join(f"{name} {value:.2f}" for name, value in result["depth"].items())
    text += ["", f"Mean depth of the top {counts[-1]}: {depths}."]
    print("\n".join(text))
    file.write_text("\n".join(text) + "\n")


def draw(result: dict[str, Any], file: Path) -> None:
    """The curves as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, row), marker in zip(result["curve"].items(), "os^D", strict=True):
        axes.plot(list(row), list(row.values()), marker=marker, markersize=4, label=name)
    axes.set(xlabel="filters held at their mean", ylabel="test accuracy", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="demo, cifar10, fashion-mnist; any by --agreement")
    parser.add_argument("--data", default="")
    parser.add_argument("--checkpoint", type=Path, default=Path())
    parser.add_argument("--sure", action="store_true", help="of 4 times the images")
    parser.add_argument("--layers", default="", help="patterns, all if empty")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--filter-dropout", type=float, help="train the demo's network with it")
    parser.add_argument("--epochs", type=int, default=40, help="of that training")
    parser.add_argument("--evaluations", type=int, default=4_000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--tested", type=int, default=2_000)
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--classes", nargs="*", type=int, default=[0, 3, 5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--picture", type=Path, help="a PNG file for the curves")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.evaluations, options.images, options.tested = 40, 20, 40
        options.counts, options.classes, options.epochs = [0, 30], [3], 1
    if options.filter_dropout is not None and options.network != "demo":
        parser.error("--filter-dropout trains the demo's network: give `demo`")
    if options.sure and not options.agreement:
        parser.error("--sure chooses by the network's own answers: give --agreement")
    torch.set_num_threads(options.threads)
    result = measured(options)
    name = options.network.rpartition(":")[2]
    if options.filter_dropout is not None:
        name += f"-dropout-{options.filter_dropout:g}"
    name += "-sure" * options.sure + "-quick" * options.quick
    file = options.results / f"shapley-shapes-{name}.json"
    file.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    show(result, file.with_suffix(".md"))
    if options.picture is not None:
        draw(result, options.picture)


if __name__ == "__main__":
    sys.exit(main())
