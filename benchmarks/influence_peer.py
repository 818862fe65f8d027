"""EK-FAC influence here and in kronfluence, each in a process of its own: time, memory, agreement.

Both compute the same: empirical Fisher, damping 0.1 of the mean, scores by layer, eval mode, of the
same layers; all else is each one's default. Seconds are processor time, memory is the growth of the
peak resident size, both from the loaded network to the scores.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import modeledit
from modeledit import demo
from modeledit.data import Split
from modeledit.influence import influence
from modeledit.runtime import Runtime

METHODS = ("modeledit", "kronfluence")


def load(options: argparse.Namespace) -> tuple[nn.Module, Split, Split]:
    """The network in eval mode, and the images of both sides."""
    if options.data is None:
        loaded, data = demo.load()
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
        import cifar_resnet  # type: ignore[import-not-found]

        loaded = modeledit.load_model(
            "module:cifar_resnet:resnet18",
            options.checkpoint,
            mean=cifar_resnet.MEAN,
            std=cifar_resnet.STD,
            input_size=cifar_resnet.INPUT_SIZE,
        )
        data = modeledit.load_data(
            options.data, loaded.preprocessing, num_classes=loaded.num_classes, seed=options.seed
        )
    train = data.train.sample(options.train, options.seed)
    return loaded.module.eval(), train, data.test.sample(options.test, options.seed)


def watched(model: nn.Module, widest: int) -> list[str]:
    """Convolutions and linear layers with at most so many inputs to each output."""
    kinds = (nn.Conv2d, nn.Linear)
    matrices = {name: m.weight for name, m in model.named_modules() if isinstance(m, kinds)}
    return [name for name, weight in matrices.items() if weight[0].numel() <= widest]


def ours(options: argparse.Namespace) -> dict[str, Tensor]:
    model, train, test = load(options)
    found = influence(
        model,
        train,
        test,
        curvature="empirical-fisher",
        layers=watched(model, options.widest),
        runtime=Runtime(batch_size=options.batch_size, seed=options.seed),
        memory=options.memory_mb * 2**20,
    )
    return {name: found.of(name) for name in found.layers}


def theirs(options: argparse.Namespace) -> dict[str, Tensor]:
    warnings.simplefilter("ignore")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            del sample  # the empirical Fisher uses the labels
            return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

    model, *splits = load(options)
    names = watched(model, options.widest)
    train, test = (held(split) for split in splits)
    task = Classification()
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "peer",
            prepare_model(model, task),
            task,
            cpu=True,
            disable_tqdm=True,
            output_dir=folder,
        )
        analyzer.fit_all_factors(
            "factors",
            train,
            per_device_batch_size=options.batch_size,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            test,
            train,
            per_device_query_batch_size=options.test,
            per_device_train_batch_size=options.batch_size,
            score_args=ScoreArguments(damping_factor=None, compute_per_module_scores=True),
        )
        return {name: s.T for name, s in analyzer.load_pairwise_scores("scores").items()}


def held(split: Split) -> TensorDataset:
    batches = list(split.batches(Runtime()))
    return TensorDataset(
        torch.cat([batch.images for batch in batches]), torch.from_numpy(split.labels)
    )


def child(options: argparse.Namespace) -> None:
    """One method: its scores into a file, seconds and peak growth in MB on stdout."""
    model, train, _ = load(options)
    with torch.no_grad():
        model(next(train.batches(Runtime(batch_size=options.batch_size))).images)
    before, start = peak_mb(forget=True), time.process_time()
    scores = ours(options) if options.method == "modeledit" else theirs(options)
    seconds = time.process_time() - start
    torch.save(scores, options.scores)
    print(json.dumps({"seconds": seconds, "peak_growth_mb": peak_mb() - before}))


def peak_mb(*, forget: bool = False) -> float:
    """Largest resident size since the last call that made the kernel forget it (Linux)."""
    if forget:  # what was loaded before would hide the growth
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def beside_kronfluence() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            path = Path(folder) / f"{method}.pt"
            command = [sys.executable, *sys.argv, "--method", method]
            done = subprocess.run(
                [*command, "--scores", str(path)], capture_output=True, text=True, check=True
            )
            rows[method] = json.loads(done.stdout.splitlines()[-1])
            scores[method] = torch.load(path, weights_only=True)
    both = [scores[method] for method in METHODS]
    by_layer = {name: correlation(both[0][name], both[1][name]) for name in both[0]}
    return {
        **rows,
        "layers": len(by_layer),
        "least_correlation": min(by_layer.values()),
        "time_ratio": rows["modeledit"]["seconds"] / rows["kronfluence"]["seconds"],
        "memory_ratio": rows["modeledit"]["peak_growth_mb"] / rows["kronfluence"]["peak_growth_mb"],
    }


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])
