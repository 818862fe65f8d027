"""Make a gender classifier fairer without training: what each method reaches, and what it costs.

    python benchmarks/fairness.py --data csv:utkface96.zip --checkpoint FILE

Every finished (method, seed) is appended to RESULTS/fairness.jsonl at once, so a run that was
stopped goes on where it was; the table is written beside it as fairness.md. Scores come from
training images. How much is edited is chosen on validation images, and on the share of the training
images that --hold-out keeps from scoring, by the rule of `modeledit repair`: of the edits that keep
accuracy and surely harm no group, the one with the highest recall of the worst group. All numbers
are of the test images. Groups are race and gender together;
equalized odds is taken over race, as a group of one gender has no false positives or no true ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from endings import Ending, Ints, doublings, read_rows, within
from fairness_table import MAX_DROP, MAX_GROUP_DROP, OURS, tables
from torch import Tensor

import modeledit
from modeledit.checkpoint import identity, load_scores, save_scores
from modeledit.eval.aspects import Aspects
from modeledit.eval.fairness import drops, measure
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import reduced
from modeledit.eval.rates import Names
from modeledit.objectives import Seen
from modeledit.objectives.repairing import Repairing
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.scorers._vector import last
from modeledit.targets import Accuracy, GroupRecall
from modeledit.types import Scores
from modeledit.units import survey

RESULTS = Path(__file__).parent / "results"
SHARE = 0.5  # of the weights, at the end of the network: where all methods look
SHIFT = "threshold shift"
METHODS = {  # scorer, options, editor
    OURS: ("stepwise-cells", {"share": SHARE}, "zero"),
    "magnitude, weights": ("magnitude", {}, "zero"),
    "random, weights": ("random", {}, "zero"),
    "leave-one-out, filters": ("leave-one-out", {"images": 256}, "mean-ablate"),
    "stepwise-leave-one-out, filters": ("stepwise-leave-one-out", {"rounds": 24}, "mean-ablate"),
}
RULE = Repairing(Limits(max_drop=MAX_DROP, max_group_drop=MAX_GROUP_DROP), Aspects(positive=1))
Logits = Callable[[Ending], Tensor]


@dataclass(frozen=True)
class Faces:
    """A split's unedited answers; groups: (n,) race and gender; races: (n,)."""

    ending: Ending
    labels: Ints
    groups: Names
    races: Names
    before: Ints

    def seen(self, logits: Tensor) -> Seen:
        """Answers as the search of an edit sees them."""
        labels = torch.as_tensor(self.labels)
        return Seen(reduced(logits, labels, torch.arange(len(labels))), self.groups)

    def judge(self, logits: Tensor, seed: int = 0) -> dict[str, Any]:
        """Metrics of answers beside the unedited ones."""
        after = logits.argmax(1).numpy()
        found = measure(self.labels, after, self.groups, seed=seed).metrics
        races = measure(self.labels, after, self.races, seed=seed).metrics
        changes = drops(self.labels, self.before, after, self.groups, seed=seed)
        return {
            "accuracy": found.accuracy_score,
            "accuracy_drop": float((self.before == self.labels).mean()) - found.accuracy_score,
            "worst_group": found.worst_group,
            "worst_recall": found.accuracy_score_group_min,
            "worst_recall_ci95": found.ci95["accuracy_score_group_min"],
            "equalized_odds_difference": races.equalized_odds_difference,
            "recall": {g: float((after == self.labels)[self.groups == g].mean())
                       for g in np.unique(self.groups).tolist()},
            "n": {c.name: c.n for c in changes},
            "drop": {c.name: c.drop for c in changes},
            "drop_ci95": {c.name: c.ci95 for c in changes},
            "harmed": [c.name for c in changes if c.harmed(MAX_GROUP_DROP)],
        }  # fmt: skip


class Study:
    """The model and the faces; the end of the network is kept for all methods."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.loaded = modeledit.load_model(
            "torchvision:squeezenet1_1", options.checkpoint, input_size=96
        )
        at = self.loaded.preprocessing
        data = modeledit.load_data(options.data, at, num_classes=2, limit=options.limit)
        self.origin = {"model": identity(self.loaded.base_state()), "data": data.digest()}
        self.kept, self.seed, self.held = options.scores, seed, options.hold_out
        data = data.held_out(self.held, seed) if self.held else data
        self.train = data.train
        self.weights = survey(self.loaded.module, data.train.example()).weights
        self.names = last(self.weights, dict(self.loaded.module.named_parameters()), SHARE)
        self.validation, self.test = self._faces(data.validation), self._faces(data.test)

    def _faces(self, split: modeledit.data.Split) -> Faces:
        ending = Ending(self.loaded, self.names, split, Runtime())
        groups = np.asarray(split.groups, dtype=str)
        races = np.array([group.rpartition("-")[0] for group in groups])
        before = ending.unedited.argmax(1).numpy()
        return Faces(ending, split.labels, groups, races, before)

    def run(self, method: str) -> dict[str, Any]:
        """One row: the chosen strength on the test images, and all that were tried."""
        start, seed = time.perf_counter(), self.seed
        self.cost: dict[str, float] = {"seconds": 0.0, "passes": 0}
        tried = dict(self._tries(method, Runtime(seed=seed)))
        faces = self.validation
        before = faces.seen(faces.ending.unedited)
        trials = {}
        for strength, make in tried.items():
            logits = make(faces.ending)
            kept = RULE.keeps(before, faces.seen(logits), 1.0)
            trials[strength] = faces.judge(logits) | {"kept": kept}
        chosen = best(trials)
        return {
            "method": method,
            "seed": seed,
            "strength": chosen,
            "test": self.test.judge(tried[chosen](self.test.ending), seed),
            "before": self.test.judge(self.test.ending.unedited, seed),
            "validation": [{"strength": s, **brief(t)} for s, t in trials.items()],
            "scoring": self.cost,
            "seconds": time.perf_counter() - start,
        }

    def _tries(self, method: str, runtime: Runtime) -> Iterator[tuple[float, Logits]]:
        """(strength, what gives the logits at it); strength 0 leaves the network alone."""
        yield 0, lambda ending: ending.unedited
        if method == SHIFT:
            for tenths in range(1, 31):
                for sign in (1, -1):
                    yield sign * tenths / 10, shifted(sign * tenths / 10)
            return
        name, options, editor = METHODS[method]
        scorer = create("scorers", name, options | self._where(name))
        scores = self._scores(scorer, runtime)
        self.cost = {key: float(scores.header[key]) for key in self.cost}
        steps = scores.header.get("steps")
        kept = scores.values if steps or scorer.granularity == "filter" else self.names
        scores = scores if steps else within(scores, list(kept))
        made = create("editors", editor, {"allocation": "global"})
        planner = made.prepare(scores, self.loaded.module, self.train, runtime)
        for count in steps or doublings(min(scores.count, 2**16)):
            yield count, lambda ending, count=count: ending.logits(planner(count))

    def _scores(self, scorer: Scorer, runtime: Runtime) -> Scores:
        """For the worst group, from the folder of scores if they are there."""
        name = f"{scorer.name}-{self.held:g}-{runtime.seed}.safetensors"
        path = self.kept / name if self.kept else None
        if path and path.exists():
            return load_scores(path)
        blind = GroupRecall not in scorer.targets  # whatever is asked of it, the score is the same
        target = Accuracy() if blind else GroupRecall("worst")
        start = time.perf_counter()
        scores = scorer(self.loaded.module, self.train, target, runtime)
        took = {"seconds": time.perf_counter() - start}
        scores = replace(scores, header={**scores.header, **took})
        if path:
            save_scores(path, scores)
        return scores

    def _where(self, scorer: str) -> dict[str, str]:
        layers = ",".join(name.removesuffix(".weight") for name in self.names)
        return {"layers": layers} if scorer.endswith("leave-one-out") else {}


def shifted(by: float) -> Logits:
    """The second class is predicted where its logit is larger by more than -`by`."""
    return lambda ending: ending.unedited + torch.tensor([0.0, by])


def best(trials: dict[float, dict[str, Any]]) -> float:
    """Among edits that keep accuracy and harm nobody the highest recall of the worst group, then
    the highest accuracy; the unedited network is always among them."""
    fit = [s for s, t in trials.items() if t["kept"]]
    return max(fit, key=lambda s: (trials[s]["worst_recall"], trials[s]["accuracy"]))


def brief(trial: dict[str, Any]) -> dict[str, Any]:
    left_out = ("recall", "n", "drop_ci95", "worst_recall_ci95")
    return {key: value for key, value in trial.items() if key not in left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=[*METHODS, SHIFT])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--hold-out", type=float, default=0.3, help="share of training images")
    parser.add_argument("--limit", type=int, help="images per split")
    parser.add_argument("--scores", type=Path, help="folder that keeps scores for another run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    log = options.results / "fairness.jsonl"
    rows = [json.loads(line) for line in read_rows(log)]
    for seed in options.seeds:
        methods = [m for m in options.methods if m != SHIFT or seed == options.seeds[0]]
        done = {(row["method"], row["seed"], row.get("hold_out", 0)) for row in rows}
        missing = [method for method in methods if (method, seed, options.hold_out) not in done]
        study = Study(options, seed) if missing else None
        for method in missing:
            assert study is not None
            if {row["model"] for row in rows} - {study.origin["model"]}:
                raise SystemExit(f"{log} is of another model: give this one other --results")
            row = study.run(method) | study.origin | {"hold_out": study.held}
            rows.append(row | {"versions": modeledit.versions(), "machine": platform.machine()})
            with log.open("a") as file:
                file.write(json.dumps(rows[-1], sort_keys=True) + "\n")
            print(method, seed, row["strength"], brief(row["test"]), flush=True)
    log.with_suffix(".md").write_text("\n".join(tables(rows)) + "\n")


if __name__ == "__main__":
    main()
