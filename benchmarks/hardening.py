"""Weaken an attack without training: success of its replayed images against clean accuracy.

    python benchmarks/hardening.py demo [--transfer FILE]
    python benchmarks/hardening.py cifar10 --data folder:cifar10.zip --checkpoint FILE [...]
    python benchmarks/hardening.py lite0 --data folder:cifar10.zip --checkpoint FILE [...]

Targeted PGD images are made once on the unedited network: of training images for scoring, of
validation images to choose how much is edited (the lowest success at 3 and at 5 points of clean
accuracy lost), of test images for the numbers. The attack made anew on each edited network stands
beside them, with --transfer also images made on another network: for the demo the FILE of `python
-m modeledit.demo.train --seed 1 -o FILE`, for cifar10 that of `python benchmarks/train_cifar.py
cifar10-small`, for lite0 an ImageNet SqueezeNet 1.1. Every finished method is appended to
RESULTS/hardening-NAME.jsonl at once.

lite0 is an ImageNet network on other pictures, whose truth is what it says of them itself; its
table was made with --steps 10 --train 100 --images 100 and the METHODS that it names.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from endings import doublings, read_rows
from hardening_table import LOSSES, OURS, best, table
from relabelled import lite0, squeezenet
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from unlearning import load

import modeledit
from modeledit import demo
from modeledit.attacks import PixelModel
from modeledit.attacks.pgd import Pgd
from modeledit.data import Split
from modeledit.defaults import ALL_LAYERS, CANDIDATES, FEWER_IMAGES, ON_THE_WAY
from modeledit.eval.attacks import AttackOutcome, craft, outcome
from modeledit.judging import Baseline
from modeledit.models import LoadedModel
from modeledit.objectives.hardening import on_the_way
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.surgery import apply
from modeledit.targets import Accuracy, AttackSuccess
from modeledit.types import Scores

RESULTS = Path(__file__).parent / "results"
ON_WAY = "stepwise-peps, on the way"  # takes long: only where it is asked for
LARGE = 16  # ImageNet-sized images at a time: more of them leave the processor's cache
METHODS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {  # scorer, options, editor
    **{name: (*CANDIDATES["harden"][ours], "zero") for name, ours in OURS.items()},
    ON_WAY: ("stepwise-peps", ALL_LAYERS | FEWER_IMAGES | ON_THE_WAY, "zero"),
    "gate-ig, filters": ("gate-ig", {"granularity": "filter"}, "mean-ablate"),
    "norm, filters": ("magnitude", {"granularity": "filter"}, "mean-ablate"),
    "random, filters": ("random", {"granularity": "filter"}, "mean-ablate"),
    "magnitude, weights": ("magnitude", {}, "zero"),
    "random, weights": ("random", {}, "zero"),
}


class Study:
    """The network and its adversarial images."""

    def __init__(self, options: argparse.Namespace, baseline: Baseline) -> None:
        self.loaded, self.data = baseline.loaded, baseline.data
        large = options.dataset == "lite0"
        self.gain: float | None = options.gain
        self.losses = LOSSES[-1:] if large else LOSSES  # 3 of 100 images are within the noise
        self.runtime = Runtime(batch_size=LARGE if large else 100, seed=options.seed)
        self.attack = Pgd(options.eps, targeted=True, steps=options.steps, step=options.step_size)
        network = self.pixels(self.loaded.module)
        counts = (options.train, options.images, options.images)
        splits = (self.data.train, self.data.validation, self.data.test)
        some = [s.sample(min(n, len(s)), options.seed) for s, n in zip(splits, counts, strict=True)]
        weaker = replace(self.attack, eps=options.train_eps or options.eps)
        train, self.validation, self.test = (
            craft(attack, network, split, self.runtime)
            for attack, split in zip((weaker, self.attack, self.attack), some, strict=True)
        )
        other = rival(options, self.loaded)
        self.transferred = (
            self.test.again(self.attack, pixels(other), self.runtime) if other is not None else None
        )
        rows = torch.from_numpy(outcome(network, train, self.runtime).succeeded)
        self.attacked = train.subset(rows.nonzero()[:, 0])
        self.before = {
            name: self.replayed(self.loaded.module, name) for name in ("validation", "test")
        }

    def pixels(self, module: nn.Module) -> PixelModel:
        return pixels(self.loaded, module)

    def replayed(self, module: nn.Module, split: str) -> AttackOutcome:
        """Of the images that the unedited network classifies correctly when clean."""
        found = self.validation if split == "validation" else self.test
        return outcome(self.pixels(module), found, self.runtime, among=found.correct)

    def shown(self, along: int) -> Split:
        """The images to score on, as the network takes them, labelled with their targets."""
        targets = self.attacked.targets
        assert targets is not None
        ways = self.pixels(self.loaded.module).inputs(on_the_way(self.attacked, along))
        return Split.of(TensorDataset(ways, targets.repeat_interleave(along)), "train")

    def scores(self, name: str, options: Mapping[str, Any]) -> Scores:
        scorer = create("scorers", name, options)
        if AttackSuccess in scorer.targets:
            retain = self.data.train if name == "stepwise-peps" else None
            given = (self.shown(scorer.steps_along()), AttackSuccess(), self.runtime)
            return scorer(self.loaded.module, *given, retain=retain)
        return scorer(self.loaded.module, self.data.train, Accuracy(), self.runtime)

    def run(self, method: str) -> dict[str, Any]:
        """One row: the frontier on validation, and the chosen edits on test."""
        name, options, editor = METHODS[method]
        if self.gain is not None and method in OURS:
            options = {**options, "gain": self.gain}
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
        counts = {f"{loss:g}": best(frontier, loss)["count"] for loss in self.losses}
        judged = {}
        for count in dict.fromkeys(counts.values()):
            edited = (
                apply(self.loaded.module, planner(count)).eval() if count else self.loaded.module
            )
            judged[count] = {"count": count, **self._judged(edited)}
        return {
            "method": method,
            "chosen": {loss: judged[count] for loss, count in counts.items()},
            "frontier": frontier,
            "score_seconds": seconds,
            "rank_correlation": self._correlation(name, options, scores),
        }

    def _judged(self, edited: nn.Module) -> dict[str, Any]:
        replay = self.replayed(edited, "test")
        network = self.pixels(edited)
        again = outcome(network, self.test.again(self.attack, network, self.runtime), self.runtime)
        found = {"replay": replay.to_dict(), "adaptive": again.to_dict()}
        return {**found, **self.moved(network)}

    def moved(self, network: PixelModel) -> dict[str, Any]:
        """The outcome of the other network's images, if there is one."""
        if self.transferred is None:
            return {}
        shown = outcome(network, self.transferred, self.runtime, among=self.test.correct)
        return {"transfer": shown.to_dict()}

    def _correlation(self, name: str, options: Mapping[str, Any], scores: Scores) -> float | None:
        """Spearman's between values for the attack and for accuracy, where a scorer gives both."""
        if name != "gate-ig":
            return None
        accuracy = create("scorers", name, options)(
            self.loaded.module, self.data.train, Accuracy(), self.runtime
        )
        return float(spearmanr(flat(scores.raw), flat(accuracy.raw)).statistic)


def opened(options: argparse.Namespace) -> Baseline:
    """The network and the images of a table."""
    if options.dataset == "lite0":
        return lite0(options.data, options.checkpoint, options.seed)
    return load(options.dataset, options.data, options.checkpoint, options.seed, None)


def rival(options: argparse.Namespace, loaded: LoadedModel) -> LoadedModel | None:
    """The network of --transfer: for the demo other weights of the same one, else a small one."""
    if options.transfer is None:
        return None
    if options.dataset == "lite0":
        return squeezenet(options.transfer)
    spec, args = "module:small_networks:resnet20", {}
    if options.dataset == "demo":
        spec, args = f"timm:{demo.ARCHITECTURE}", demo.ARGS
    at = loaded.preprocessing
    given = {"mean": at.mean, "std": at.std, "input_size": at.size[0]}
    return modeledit.load_model(spec, options.transfer, args=args, **given)


def pixels(loaded: LoadedModel, module: nn.Module | None = None) -> PixelModel:
    """The network, or an edit of it, on pixels in 0..1."""
    at = loaded.preprocessing
    return PixelModel(loaded.module.eval() if module is None else module, at.mean, at.std)


def flat(values: Mapping[str, Tensor]) -> list[float]:
    return torch.cat([t.flatten() for t in values.values()]).tolist()


def size(text: str) -> float:
    """A number or a fraction of two."""
    number, _, whole = text.partition("/")
    return float(number) / float(whole or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=("demo", "cifar10", "lite0"))
    parser.add_argument("--data", default="")
    parser.add_argument("--checkpoint", type=Path, default=Path())
    parser.add_argument(
        "--methods", nargs="+", default=[m for m in METHODS if m != ON_WAY], choices=list(METHODS)
    )
    parser.add_argument("--eps", type=size, help="such as 16/255; default 8/255, for the demo 0.12")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-size", type=size, help="such as .8/255; default 2.5 eps / steps")
    parser.add_argument("--transfer", type=Path, help="weights of a network to take images from")
    parser.add_argument("--train-eps", type=size, help="of the images to score on; default: --eps")
    parser.add_argument("--train", type=int, default=400, help="images to score on")
    parser.add_argument("--images", type=int, default=300, help="to choose on, and to report")
    parser.add_argument("--gain", type=float, help="of stepwise-peps; default: the candidates' own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="of the result files; default: the data set's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.eps = options.eps or (0.12 if options.dataset == "demo" else 8 / 255)
    log = options.results / f"hardening-{options.name or options.dataset}.jsonl"
    rows = [json.loads(line) for line in read_rows(log)]
    baseline = opened(options)
    keys = ("eps", "train_eps", "steps", "step_size", "train", "images", "seed", "gain")
    settings = {key: getattr(options, key) for key in keys}
    transfer = options.transfer and options.transfer.name
    same = {**settings, "transfer": transfer, "model": baseline.digest}
    if any(row.get(key) != value for row in rows for key, value in same.items()):
        raise SystemExit(f"{log} is of other settings: give this one other --results")
    done = [row["method"] for row in rows]
    missing = [method for method in options.methods if method not in done]
    study = Study(options, baseline) if missing else None
    for method in missing:
        assert study is not None
        rows.append(
            study.run(method)
            | same
            | {
                "before": {
                    **study.before["test"].to_dict(),
                    **study.moved(study.pixels(study.loaded.module)),
                }
            }
            | {"versions": modeledit.versions()}
            | {"threads": torch.get_num_threads(), "machine": platform.machine()}
        )
        with log.open("a") as file:
            file.write(json.dumps(rows[-1], sort_keys=True) + "\n")
        print(method, json.dumps(rows[-1]["chosen"]["0.05"]["replay"]), flush=True)
    log.with_suffix(".md").write_text("\n".join(table(rows)) + "\n")


if __name__ == "__main__":
    main()
