"""Attacks: the time of PGD beside a bare loop and torchattacks, and how far each attack gets.

    python benchmarks/attacks.py [--quick] [--images 32] [--steps 20] [--threads 1] [--json FILE]

Seconds are processor time, so that other work on the machine does not count; the methods take turns
in one process on the same images, and the best of `repeats` counts. They are of a 20-layer ResNet
of 32-pixel images with random weights. How far the attacks get is shown on the demo's trained
network and its test images: PGD and auto-PGD take as many steps, Square sees outputs only.
torchattacks is timed where it is installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from small_networks import resnet20
from torch import Tensor, nn
from torch.nn import functional as F

import modeledit
from modeledit import demo
from modeledit.attacks import Attack, PixelModel
from modeledit.attacks.apgd import Apgd
from modeledit.attacks.fgsm import Fgsm
from modeledit.attacks.pgd import Pgd
from modeledit.attacks.square import Square
from modeledit.eval.attacks import craft, outcome
from modeledit.eval.masking import masked_gradients
from modeledit.runtime import Runtime

try:
    import torchattacks
except ImportError:
    torchattacks = None

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
RESULT = Path(__file__).parent / "results" / "attacks.json"


def bare_loop(
    model: nn.Module, clean: Tensor, labels: Tensor, eps: float, steps: int
) -> Callable[[], Tensor]:
    """PGD as one writes it down."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    step = 2.5 * eps / steps

    def run() -> Tensor:
        at = (clean + eps * (2 * torch.rand_like(clean) - 1)).clamp(0, 1)
        for _ in range(steps):
            at.requires_grad_()
            loss = F.cross_entropy(model((at - mean) / std), labels)
            (gradient,) = torch.autograd.grad(loss, at)
            at = at.detach() + step * gradient.sign()
            at = torch.minimum(torch.maximum(at, clean - eps), clean + eps).clamp(0, 1)
        return at

    return run


def theirs(
    model: nn.Module, clean: Tensor, labels: Tensor, eps: float, steps: int
) -> Callable[[], Tensor]:
    """torchattacks' PGD, which takes inputs and gives inputs."""
    attack = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / steps, steps=steps)
    attack.set_normalization_used(mean=list(MEAN), std=list(STD))
    inputs = PixelModel(model, MEAN, STD).inputs(clean)
    return lambda: attack(inputs, labels)


def times(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each method, the best of `repeats`."""
    torch.manual_seed(options.seed)
    model = resnet20()
    with torch.no_grad():
        model(torch.randn(16, 3, 32, 32))
    model.eval()
    clean = torch.rand(options.images, 3, 32, 32)
    network = PixelModel(model, MEAN, STD)
    labels = network.logits(clean).argmax(1)
    given = (model, clean, labels, options.eps, options.steps)
    ours = Pgd(eps=options.eps, steps=options.steps)
    methods = {"bare loop": bare_loop(*given), "modeledit": lambda: ours(network, clean, labels)}
    if torchattacks is not None:
        methods["torchattacks"] = theirs(*given)
    seconds = dict.fromkeys(methods, float("inf"))
    for _ in range(options.repeats):
        for name, run in methods.items():
            start = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - start)
    over = {f"over {name}": seconds["modeledit"] / seconds[name] for name in seconds}
    return {"seconds": seconds, **over}


def reached(options: argparse.Namespace, *, targeted: bool) -> dict[str, Any]:
    """How far each attack gets on the demo, on the same images and towards the same targets."""
    loaded, data = demo.load(limit=options.shown, seed=options.seed)
    runtime = Runtime(seed=options.seed)
    network = PixelModel(loaded.module, loaded.preprocessing.mean, loaded.preprocessing.std)
    same: dict[str, Any] = {"eps": options.demo_eps, "targeted": targeted}
    attacks: tuple[Attack, ...] = (
        Fgsm(**same),
        Pgd(**same, steps=options.steps),
        Apgd(**same, steps=options.steps),
        Square(**same, queries=options.queries),
    )
    found = {a.name: craft(a, network, data.test, runtime) for a in attacks}
    outcomes = {name: outcome(network, each, runtime) for name, each in found.items()}
    checks = masked_gradients(network, found["pgd"], runtime, images=50, queries=options.queries)
    return {
        "counts": {name: int(one.succeeded.sum()) for name, one in outcomes.items()},
        "outcomes": {name: one.to_dict() for name, one in outcomes.items()},
        "masked_gradients": checks.to_dict(),
    }


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    timed = times(options)
    shown = {
        name: reached(options, targeted=name == "targeted") for name in ("untargeted", "targeted")
    }
    counts = [by["counts"] for by in shown.values()]
    peers = [value for name, value in timed.items() if name.startswith("over ")]
    return {
        "time": timed,
        "demo": shown,
        "passed": {
            "pgd_within_10_percent": max(peers) <= 1.1,
            "apgd_finds_as_many_as_pgd": all(c["apgd"] >= c["pgd"] for c in counts),
            "square_does_not_beat_white_box": all(
                c["square"] <= max(c["pgd"], c["apgd"]) for c in counts
            ),
        },
        **{k: v for k, v in vars(options).items() if k != "json"},
        "machine": platform.machine(),
        "versions": {
            **modeledit.versions(),
            **({"torchattacks": torchattacks.__version__} if torchattacks else {}),
        },
    }


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("method", "seconds", "modeledit over it", title=f"PGD, {result['steps']} steps")
    for name, seconds in result["time"]["seconds"].items():
        table.add_row(name, f"{seconds:.2f}", f"{result['time'][f'over {name}']:.3f}")
    console.print(table)
    for kind, found in result["demo"].items():
        table = Table("attack", "success", "95 %", "robust accuracy", "clean", title=kind)
        for name, one in found["outcomes"].items():
            low, high = one["ci95"]["success_rate"]
            table.add_row(
                name,
                f"{one['success_rate']:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{one['robust_accuracy']:.3f}",
                f"{one['clean_accuracy']:.3f}",
            )
        console.print(table)
    console.print(f"passed: {result['passed']}")


def markdown(result: dict[str, Any]) -> Iterator[str]:
    """The same tables, for a file."""
    given = f"{result['steps']} steps on {result['images']} images, {result['threads']} thread(s)"
    yield f"PGD, {given}: processor time, best of {result['repeats']}."
    yield ""
    yield "| method | seconds | modeledit over it |"
    yield "|---|---|---|"
    for name, seconds in result["time"]["seconds"].items():
        yield f"| {name} | {seconds:.2f} | {result['time'][f'over {name}']:.3f} |"
    yield ""
    yield (
        f"The demo's network, {result['shown']} test images, eps {result['demo_eps']:g}; PGD and "
        f"auto-PGD {result['steps']} steps, Square {result['queries']} queries."
    )
    yield ""
    yield "| goal | attack | success, 95 % | robust accuracy | clean accuracy |"
    yield "|---|---|---|---|---|"
    for kind, found in result["demo"].items():
        for name, one in found["outcomes"].items():
            low, high = one["ci95"]["success_rate"]
            yield (
                f"| {kind} | {name} | {one['success_rate']:.3f} ({low:.3f} to {high:.3f}) "
                f"| {one['robust_accuracy']:.3f} | {one['clean_accuracy']:.3f} |"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few images, steps and queries")
    parser.add_argument("--images", type=int, default=16, help="of the timed batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--shown", type=int, default=60, help="images of the demo")
    parser.add_argument("--demo-eps", type=float, default=0.06)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.quick:
        options.images, options.steps, options.shown, options.queries = 8, 5, 20, 30
    torch.set_num_threads(options.threads)
    result = benchmark(options)
    show(result)
    options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    options.json.with_suffix(".md").write_text("\n".join(markdown(result)) + "\n")
    return 0 if all(result["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
