"""Weaken an attack without training: success of its replayed images against clean accuracy.

    python benchmarks/hardening.py demo
    python benchmarks/hardening.py cifar10 --data folder:cifar10.zip --checkpoint FILE

Targeted PGD images are made once on the unedited network: of training images for scoring, of
validation images to choose how much is edited (the lowest success at 3 and at 5 points of clean
accuracy lost), of test images for the numbers. The attack made anew on each edited network
stands beside them. Every finished method is appended to RESULTS/hardening-NAME.jsonl at once.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from endings import doublings, read_rows
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from unlearning import load

import modeledit
from modeledit.attacks import PixelModel
from modeledit.attacks.pgd import Pgd
from modeledit.data import Split
from modeledit.eval.attacks import AttackOutcome, craft, outcome
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.surgery import apply
from modeledit.targets import Accuracy, AttackSuccess
from modeledit.types import Scores

RESULTS = Path(__file__).parent / "results"
LOSSES = (0.03, 0.05)  # of clean accuracy, at which the frontier is read
# Attacks act from the first layers on; small steps, since weights there serve everything.
EARLY = {"share": 1.0, "step": 0.06, "kappa": 0.0, "lam": 20.0, "rounds": 30}
FEW = {"retain_inputs": 2048, "fraction": 0.25}  # images a round, as each runs the whole network
METHODS: Mapping[str, tuple[str, dict[str, Any], str]] = {  # scorer, options, editor
    "modeledit (stepwise-peps)": ("stepwise-peps", {}, "zero"),
    "modeledit (stepwise-peps, all layers)": ("stepwise-peps", EARLY | FEW, "zero"),
    "gate-ig, filters": ("gate-ig", {"granularity": "filter"}, "mean-ablate"),
    "norm, filters": ("magnitude", {"granularity": "filter"}, "mean-ablate"),
    "random, filters": ("random", {"granularity": "filter"}, "mean-ablate"),
    "magnitude, weights": ("magnitude", {}, "zero"),
    "random, weights": ("random", {}, "zero"),
}


class Study:
    """The network and its adversarial images."""

    def __init__(self, options: argparse.Namespace) -> None:
        baseline = load(options.dataset, options.data, options.checkpoint, options.seed, None)
        self.loaded, self.data = baseline.loaded, baseline.data
        self.model_digest = baseline.digest
        self.runtime = Runtime(batch_size=100, seed=options.seed)
        self.attack = Pgd(eps=options.eps, steps=options.steps, targeted=True)
        network = self.pixels(self.loaded.module)
        counts = (options.train, options.images, options.images)
        splits = (self.data.train, self.data.validation, self.data.test)
        some = [s.sample(min(n, len(s)), options.seed) for s, n in zip(splits, counts, strict=True)]
        train, self.validation, self.test = (
            craft(self.attack, network, split, self.runtime) for split in some
        )
        rows = torch.from_numpy(outcome(network, train, self.runtime).succeeded)
        assert train.targets is not None
        shown = TensorDataset(network.inputs(train.changed[rows]), train.targets[rows])
        self.attacked = Split.of(shown, "train")
        self.before = {
            name: self.replayed(self.loaded.module, name) for name in ("validation", "test")
        }

    def pixels(self, module: nn.Module) -> PixelModel:
        at = self.loaded.preprocessing
        return PixelModel(module, at.mean, at.std)

    def replayed(self, module: nn.Module, split: str) -> AttackOutcome:
        """Of the images that the unedited network classifies correctly when clean."""
        found = self.validation if split == "validation" else self.test
        return outcome(self.pixels(module), found, self.runtime, among=found.correct)

    def scores(self, name: str, options: dict[str, Any]) -> Scores:
        scorer = create("scorers", name, options)
        if AttackSuccess in scorer.targets:
            retain = self.data.train if name == "stepwise-peps" else None
            given = (self.loaded.module, self.attacked, AttackSuccess(), self.runtime)
            return scorer(*given, retain=retain)
        return scorer(self.loaded.module, self.data.train, Accuracy(), self.runtime)

    def run(self, method: str) -> dict[str, Any]:
        """One row: the frontier on validation, and the chosen edits on test."""
        name, options, editor = METHODS[method]
        start = time.perf_counter()
        scores = self.scores(name, options)
        seconds = time.perf_counter() - start
        made = create("editors", editor, {"allocation": "global"})
        planner = made.prepare(scores, self.loaded.module, self.data.train, self.runtime)
        frontier = []
        for count in scores.header.get("steps") or doublings(scores.count):
            edited = apply(self.loaded.module, planner(count)).eval()
            found = self.replayed(edited, "validation")
            drop = self.before["validation"].clean_accuracy - found.clean_accuracy
            frontier.append({"count": count, "drop": drop, "success": found.success_rate})
            if drop > 2 * max(LOSSES):
                break
        chosen = {}
        for loss in LOSSES:
            fit = [t for t in frontier if t["drop"] <= loss]
            count = min(fit, key=lambda t: t["success"])["count"] if fit else 0
            edited = (
                apply(self.loaded.module, planner(count)).eval() if count else self.loaded.module
            )
            chosen[f"{loss:g}"] = {"count": count, **self._judged(edited)}
        return {
            "method": method,
            "chosen": chosen,
            "frontier": frontier,
            "score_seconds": seconds,
            "rank_correlation": self._correlation(name, options, scores),
        }

    def _judged(self, edited: nn.Module) -> dict[str, Any]:
        replay = self.replayed(edited, "test")
        network = self.pixels(edited)
        again = outcome(network, self.test.again(self.attack, network, self.runtime), self.runtime)
        return {"replay": replay.to_dict(), "adaptive": again.to_dict()}

    def _correlation(self, name: str, options: dict[str, Any], scores: Scores) -> float | None:
        """Spearman's between values for the attack and for accuracy, where a scorer gives both."""
        if name != "gate-ig":
            return None
        accuracy = create("scorers", name, options)(
            self.loaded.module, self.data.train, Accuracy(), self.runtime
        )
        return float(spearmanr(flat(scores.raw), flat(accuracy.raw)).statistic)


def flat(values: Mapping[str, Tensor]) -> list[float]:
    return torch.cat([t.flatten() for t in values.values()]).tolist()


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    first = rows[0]
    before = first["before"]
    lines = [
        f"Targeted PGD, eps {first['eps']:.4f}, {first['steps']} steps; {before['n']} test images, "
        f"{before['attacked']} of them classified correctly when clean. Unedited: clean accuracy "
        f"{before['clean_accuracy']:.3f}, success {before['success_rate']:.3f}. Success: share "
        "taken for the attacker's target, of images made on the unedited network (replayed) or "
        "on the edited one (adaptive: what an attacker who has the weights gets).",
        "",
        "| method | allowed loss | edited | clean accuracy | replayed, 95 % | true class back "
        "| adaptive | s, scoring |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for loss, one in row["chosen"].items():
            replay, again = one["replay"], one["adaptive"]
            low, high = replay["ci95"]["success_rate"]
            lines.append(
                f"| {row['method']} | {100 * float(loss):g} points | {one['count']:,} "
                f"| {replay['clean_accuracy']:.3f} "
                f"| {replay['success_rate']:.3f} ({low:.3f} to {high:.3f}) "
                f"| {replay['restored_rate']:.3f} | {again['success_rate']:.3f} "
                f"| {row['score_seconds']:.0f} |"
            )
    for row in rows:
        if row["rank_correlation"] is not None:
            lines += ["", f"{row['method']}: rank correlation of the values for the attack and for "
                      f"accuracy {row['rank_correlation']:.2f}."]  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=("demo", "cifar10"))
    parser.add_argument("--data", default="")
    parser.add_argument("--checkpoint", type=Path, default=Path())
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--eps", type=float, help="in 0..1; default 8/255, for the demo 0.12")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train", type=int, default=400, help="images to score on")
    parser.add_argument("--images", type=int, default=300, help="to choose on, and to report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.eps = options.eps or (0.12 if options.dataset == "demo" else 8 / 255)
    log = options.results / f"hardening-{options.dataset}.jsonl"
    rows = [json.loads(line) for line in read_rows(log)]
    study = Study(options)
    settings = {key: getattr(options, key) for key in ("eps", "steps", "train", "images", "seed")}
    same = {**settings, "model": study.model_digest}
    if any(row[key] != value for row in rows for key, value in same.items()):
        raise SystemExit(f"{log} is of other settings: give this one other --results")
    for method in options.methods:
        if method in [row["method"] for row in rows]:
            continue
        rows.append(
            study.run(method)
            | same
            | {"before": study.before["test"].to_dict(), "versions": modeledit.versions()}
            | {"threads": torch.get_num_threads(), "machine": platform.machine()}
        )
        with log.open("a") as file:
            file.write(json.dumps(rows[-1], sort_keys=True) + "\n")
        print(method, json.dumps(rows[-1]["chosen"]["0.03"]["replay"]), flush=True)
    log.with_suffix(".md").write_text("\n".join(table(rows)) + "\n")


if __name__ == "__main__":
    main()
