"""Forget each class in turn, by each method, with default settings: the tables of the README.

    python benchmarks/unlearning.py cifar10 --data folder:cifar10.zip --checkpoint FILE
    python benchmarks/unlearning.py fashion-mnist --data idx:DIR --checkpoint FILE
    python benchmarks/unlearning.py demo
    python benchmarks/unlearning.py demo --name demo-filters --methods "gate-ig, filters" [...]

Every finished (method, class, seed) is appended to RESULTS/NAME.jsonl at once, so a run that was
stopped goes on where it was; the table is written beside it as NAME.md. Strengths are chosen on
validation images cut from the training data, all numbers are of the test images.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import modeledit
from modeledit import demo
from modeledit.judging import Baseline
from modeledit.pipeline import edit, forget_target, score, unlearn
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.units import survey

HERE = Path(__file__).parent


DEFAULT = "modeledit (default)"


@dataclass(frozen=True)
class Method:
    """A scorer, with options other than its defaults, and an editor; and how much they edit.

    above: all weights with a score above it (a published threshold). matched: as many weights as
    the default method changed for the same class and seed. Neither: the search on validation.
    """

    scorer: str
    editor: str
    above: float | None = None
    matched: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS = {
    DEFAULT: Method("stepwise-peps", "zero"),
    "selective PEPS, one pass": Method("peps", "zero"),
    # Foster et al. 2024, ResNet-18 on CIFAR: alpha 10, lambda 1; dampening = lambda / alpha.
    "SSD, published settings": Method("ssd", "dampen", above=10.0),
    "SSD, searched": Method("ssd", "dampen"),
    "magnitude, as many weights": Method("magnitude", "zero", matched=True),
    "random, as many weights": Method("random", "zero", matched=True),
    "gate-ig, filters": Method("gate-ig", "mean-ablate"),
    "neuron-shapley, filters": Method("neuron-shapley", "mean-ablate"),
    "neuron-shapley, 300 evaluations, filters": Method(
        "neuron-shapley", "mean-ablate", options={"evaluations": 300}
    ),
    "stepwise-leave-one-out, filters": Method("stepwise-leave-one-out", "mean-ablate"),
    "conductance, filters": Method("conductance", "mean-ablate"),
    "internal influence, filters": Method("internal-influence", "mean-ablate"),
}
EPOCH = {"cifar10": 50_000, "fashion-mnist": 60_000, "demo": 1_079}  # training images


def load(name: str, data: str, checkpoint: Path, seed: int, limit: int | None) -> Baseline:
    """The model and the data of a table, with the unedited network's answers to come."""
    if name == "demo":
        return Baseline(*demo.load(limit, seed))
    if name == "cifar10":
        sys.path.insert(0, str(HERE.parent / "examples"))
        import cifar_resnet

        loaded = modeledit.load_model(
            "module:cifar_resnet:resnet18",
            checkpoint,
            mean=cifar_resnet.MEAN,
            std=cifar_resnet.STD,
            input_size=cifar_resnet.INPUT_SIZE,
        )
    else:
        loaded = modeledit.load_model(
            "timm:resnet18", checkpoint, mean=(0.2860,), std=(0.3530,), input_size=28
        )
    found = modeledit.load_data(
        data, loaded.preprocessing, num_classes=loaded.num_classes, seed=seed, limit=limit
    )
    return Baseline(loaded, found)


def run(
    baseline: Baseline, method: Method, forget: int, seed: int, default: dict[str, Any] | None
) -> dict[str, Any]:
    """One row: what came of forgetting one class, from the report."""
    runtime = Runtime(batch_size=250, seed=seed)
    loaded, data = baseline.loaded, baseline.data
    scorer = create("scorers", method.scorer, method.options)
    editor = create("editors", method.editor)
    if method.above is None and not method.matched:
        result = unlearn(
            loaded, data, forget, scorer=scorer, editor=editor, runtime=runtime, baseline=baseline
        )
        scored: dict[str, Any] = {}
    else:
        start = time.perf_counter()
        scores = score(loaded, data, forget_target(forget, data), scorer, runtime)
        seconds = time.perf_counter() - start
        scored = {"score": {"seconds": seconds, "passes": round(runtime.meter.images)}}
        if method.matched and default is None:
            raise SystemExit(f"run {DEFAULT!r} for class {forget} first: its count is needed")
        count = default["changed_weights"] if default else 0
        if method.above is not None:
            count = sum(int((t > method.above).sum()) for t in scores.values.values())
        editor = replace(editor, allocation="global")
        result = edit(
            loaded, data, scores, editor=editor, strength=count, runtime=runtime, baseline=baseline
        )
    report = result.report.to_dict()
    classifier = survey(loaded.module, data.train.example()).classifier
    edited = {row["layer"] for row in report["edit"]["by_layer"]}
    return {
        "class": baseline.data.class_names[forget],
        "recall_before": report["before"]["forgotten_recall"],
        "recall": report["after"]["forgotten_recall"],
        "retain_before": report["before"]["retain"]["accuracy"],
        "retain": report["after"]["retain"]["accuracy"],
        "strength": report["edit"]["strength"],
        "changed_weights": report["edit"]["changed_weights"],
        "changed_fraction": report["edit"]["changed_fraction"],
        "classifier_edited": any(name.startswith(f"{classifier}.") for name in edited),
        "gates_passed": result.passed,
        "cost": report["cost"] | scored,
        "model": report["model"]["digest"],
        "data": report["data"]["digest"],
        "versions": report["versions"],
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def seconds_per_pass(baseline: Baseline) -> float:
    """Of one forward-equivalent image in training: the median of five timed batches."""
    model = copy.deepcopy(baseline.loaded.module).train()
    batch = next(baseline.data.train.batches(Runtime(batch_size=128)))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        loss = functional.cross_entropy(model(batch.images), batch.labels)
        torch.autograd.grad(loss, list(model.parameters()))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / (3 * len(batch.labels))


def table(rows: list[dict[str, Any]], epoch: int, speed: float) -> Iterator[str]:
    """Markdown: a summary by method, then every row."""
    training = 30 * 3 * epoch  # forward-equivalents of a 30-epoch training
    runs = len({(row["class"], row["seed"]) for row in rows})
    yield (
        f"Test images, {runs} classes and seeds. Drops are in points, negative = better. "
        "Score and search: share of the forward-equivalents of a 30-epoch training, dearest class. "
        "s: longest wall-clock time of scoring, searching and editing. The training would take "
        f"about {training * speed:,.0f} s here ({rows[0]['threads']} threads, from timed batches)."
    )
    yield ""
    heads = ("method", "recall, mean / worst", "retain drop, mean / worst", "gates passed")
    yield f"| {' | '.join((*heads, 'score', 'search', 's'))} |"
    yield "|---|---|---|---|---|---|---|"
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        recalls = [100 * row["recall"] for row in mine]
        drops = [100 * (row["retain_before"] - row["retain"]) for row in mine]
        share = [
            100 * max(row["cost"][stage]["passes"] for row in mine) / training
            for stage in ("score", "search")
        ]
        seconds = max(
            sum(row["cost"][stage]["seconds"] for stage in ("score", "search", "edit"))
            for row in mine
        )
        passed = sum(row["gates_passed"] for row in mine)
        yield (
            f"| {method} | {statistics.mean(recalls):.2f} / {max(recalls):.1f} % "
            f"| {statistics.mean(drops):+.2f} / {max(drops):+.2f} | {passed} of {len(mine)} "
            f"| {share[0]:.2f} % | {share[1]:.2f} % | {seconds:.0f} |"
        )
    yield ""
    yield "| method | class | seed | recall | retain accuracy | weights changed |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['method']} | {row['class']} | {row['seed']} "
            f"| {row['recall_before']:.3f} -> {row['recall']:.3f} "
            f"| {row['retain_before']:.4f} -> {row['retain']:.4f} "
            f"| {row['changed_weights']:,} ({100 * row['changed_fraction']:.2f} %) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(EPOCH))
    parser.add_argument("--data", default="")
    parser.add_argument("--checkpoint", type=Path, default=Path())
    parser.add_argument("--methods", nargs="+", default=[DEFAULT], choices=list(METHODS))
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--limit", type=int, help="images per split, for a trial run")
    parser.add_argument("--name", help="of the result files; default: the data set's")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    log = chosen.results / f"{chosen.name or chosen.dataset}.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["method"], row["seed"], row["class"]) for row in rows}
    digests = {row["model"] for row in rows}

    def default(seed: int, name: str) -> dict[str, Any] | None:
        mine = (r for r in rows if (r["method"], r["seed"], r["class"]) == (DEFAULT, seed, name))
        return next(mine, None)

    for seed in chosen.seeds:
        baseline = load(chosen.dataset, chosen.data, chosen.checkpoint, seed, chosen.limit)
        if digests - {baseline.digest}:
            raise SystemExit(f"{log} is of another model: give this one a --name of its own")
        for method in chosen.methods:
            for forget in chosen.classes:
                name = baseline.data.class_names[forget]
                if (method, seed, name) in done:
                    continue
                row = run(baseline, METHODS[method], forget, seed, default(seed, name))
                rows.append({"method": method, "seed": seed, **row})
                with log.open("a") as file:
                    file.write(json.dumps(rows[-1], sort_keys=True) + "\n")
                print(method, seed, row["class"], row["recall"], row["retain"], flush=True)
    lines = table(rows, EPOCH[chosen.dataset], seconds_per_pass(baseline))
    log.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
