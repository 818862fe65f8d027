"""Time of ablated sub-networks against hooks with full passes and against captum, in one run.

1. Random removal walks from the whole network to nothing, each step pinning one more unit:
   stretches of consecutive steps, spaced evenly along the whole walk. Plain: forward hooks that
   overwrite the dead channels, the whole network for the same batches. The two take turns step by
   step; the jumps from one stretch to the next are not timed.
2. Leave-one-out of every filter. Plain: captum's LayerFeatureAblation, layer by layer, told the
   same pins.

    python benchmarks/subnets.py [--images N] [--stretches N] [--threads N] [--quick] [--json FILE]

Weights are random unless --checkpoint names a safetensors file for the second network: they do not
change the time. Building the graph and the first full pass are reported apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from subnets_peers import Case, Hooks, build, captum
from torch import Tensor

import modeledit
from modeledit.subnets import SubNetworks, graph
from modeledit.subnets.program import Plan
from modeledit.subnets.rows import KeptRows

TARGETS = {"resnet18": 5.0, "tf_efficientnet_lite0": 3.0, "captum": 5.0}
OUTSIDE = 0.15
PARTS = {"first tenth": (0.0, 0.1), "middle": (0.4, 0.6), "last tenth": (0.9, 1.0)}


def walk(case: Case, stretches: int, steps: int, seed: int) -> dict[str, Any]:
    """Seconds of both along one walk, and how far apart the logits ever are."""
    start = time.perf_counter()
    networks = case.networks()
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    networks.logits(alive)
    built = time.perf_counter() - start
    plain = Hooks(case, list(case.anatomy.layers))
    order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))
    rows, apart = [], 0.0
    for first, units in spaced(order, stretches, steps):
        alive = jump(networks, order, first)
        wall, cpu = {"ours": 0.0, "hooks": 0.0}, {"ours": 0.0, "hooks": 0.0}
        for unit in units:
            alive[unit] = False
            found = turn("ours", lambda a=alive: networks.logits(a), wall, cpu)
            wanted = turn("hooks", lambda a=alive: plain.logits(a), wall, cpu)
            apart = max(apart, float((found - wanted).abs().max()))
        rows.append({"removed": first / len(order), "seconds": wall, "cpu": cpu})
    return {
        "units": len(alive), "steps": stretches * steps, "images": len(case.images),
        "build_seconds": built, "stretches": rows, "difference": apart,
        "outside": outside(networks, order, stretches, steps),
    } | speedups(rows)  # fmt: skip


def spaced(order: Tensor, stretches: int, steps: int) -> Iterator[tuple[int, list[int]]]:
    """(units gone before, units that go) of each stretch."""
    gap = (len(order) - steps) / max(stretches - 1, 1)
    for stretch in range(stretches):
        first = round(stretch * gap)
        yield first, order[first : first + steps].tolist()


def jump(networks: SubNetworks, order: Tensor, first: int) -> Tensor:
    alive = torch.ones(len(order), dtype=torch.bool)
    alive[order[:first]] = False
    networks.logits(alive)
    return alive


def speedups(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def of(kind: str, low: float, high: float) -> float:
        chosen = [row[kind] for row in rows if low <= row["removed"] <= high]
        spent = {name: sum(part[name] for part in chosen) for name in ("ours", "hooks")}
        return spent["hooks"] / spent["ours"] if chosen else float("nan")

    seconds = {n: sum(row["seconds"][n] for row in rows) for n in ("ours", "hooks")}
    parts = {name: of("cpu", *bounds) for name, bounds in PARTS.items()}
    whole = {"speedup": of("seconds", 0, 1), "cpu_speedup": of("cpu", 0, 1)}
    return whole | {"seconds": seconds, "cpu_speedup_by_part": parts}


def outside(networks: SubNetworks, order: Tensor, stretches: int, steps: int) -> float:
    """Share of the CPU time of the same steps that is not spent in the network's own operations.

    What gathers and spreads the rows of convolutions counts as outside.
    """
    spent = {"inside": 0.0, "all": 0.0}
    with (
        mock.patch.object(graph, "run", lambda plan, values: timed(plan, values, spent)),
        mock.patch.object(KeptRows, "kernel", clocked(KeptRows.kernel, spent)),
    ):
        for first, units in spaced(order, stretches, steps):
            alive = jump(networks, order, first)
            before = spent["inside"]
            start = time.process_time()
            for unit in units:
                alive[unit] = False
                networks.logits(alive)
            spent["all"] += time.process_time() - start
            spent["stretches"] = spent.get("stretches", 0.0) + spent["inside"] - before
    return 1 - spent["stretches"] / spent["all"]


def timed(plan: Plan, values: Sequence[Any], spent: dict[str, float]) -> list[Any]:
    """What `run` does, with a clock around each operation."""
    values = list(values)
    for call, reads, place, done in plan.steps:
        given = [values[read] for read in reads]
        start, known = time.process_time(), spent["inside"]
        values[place] = call(*given)
        if spent["inside"] == known:  # no rows were left out, which have a clock of their own
            spent["inside"] += time.process_time() - start
        for old in done:
            values[old] = None
    return values


def clocked(kernel: Callable[..., Tensor], spent: dict[str, float]) -> Callable[..., Tensor]:
    def wrapped(self: KeptRows, x: Tensor) -> Tensor:
        start = time.process_time()
        made = kernel(self, x)
        spent["inside"] += time.process_time() - start
        return made

    return wrapped


def turn(
    name: str, what: Callable[[], Tensor], wall: dict[str, float], cpu: dict[str, float]
) -> Tensor:
    start, busy = time.perf_counter(), time.process_time()
    found = what()
    wall[name] += time.perf_counter() - start
    cpu[name] += time.process_time() - busy
    return found


def leave_one_out(case: Case, layers: list[str]) -> dict[str, Any]:
    """Drop of the label's logit, summed over images, for every filter of `layers`."""
    labels = torch.cat([batch.labels for batch in case.images.batches_])
    spent, cpu = {"ours": 0.0, "captum": 0.0}, {"ours": 0.0, "captum": 0.0}
    networks: list[SubNetworks] = []
    whole = turn("ours", lambda: begin(case, layers, networks), spent, cpu)
    found, wanted = [], []
    for layer in layers:  # taking turns
        found.append(turn("ours", lambda n=layer: ours(networks[0], n, whole, labels), spent, cpu))
        wanted.append(turn("captum", lambda n=layer: captum(case, n), spent, cpu))
    apart = float((torch.cat(found) - torch.cat(wanted)).abs().max()) / len(labels)
    return {
        "filters": len(torch.cat(found)), "layers": len(layers), "images": len(labels),
        "seconds": spent, "speedup": spent["captum"] / spent["ours"],
        "cpu_speedup": cpu["captum"] / cpu["ours"],
        "difference": apart / float(whole.abs().max()),
    }  # fmt: skip


def begin(case: Case, layers: list[str], networks: list[SubNetworks]) -> Tensor:
    """Builds and fills the networks: part of our time here."""
    networks.append(case.networks(layers))
    return networks[0].logits(torch.ones(len(networks[0].units), dtype=torch.bool))


def ours(networks: SubNetworks, layer: str, whole: Tensor, labels: Tensor) -> Tensor:
    """(units,) drop of the label's logit, summed over the images."""
    players = [i for i, unit in enumerate(networks.units) if unit.layer == layer]
    alive = torch.ones(len(players), len(networks.units), dtype=torch.bool)
    alive[torch.arange(len(players)), players] = False
    drops = whole - networks.many(alive, keep=False)  # (K, N, classes)
    return drops[:, torch.arange(len(labels)), labels].double().sum(1)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"walks": {}}
    sizes = {"resnet18": (32, options.images), "tf_efficientnet_lite0": (224, options.large)}
    for name, (size, count) in sizes.items():
        checkpoint = options.checkpoint if size != 32 else None
        case = build(name, count, size, checkpoint, options.seed)
        result["walks"][name] = walk(case, options.stretches, options.steps, options.seed)
    case = build("resnet18", options.loo, 32, None, options.seed)
    layers = list(case.anatomy.layers)
    result["captum"] = leave_one_out(case, layers[1::6] if options.quick else layers)
    result["passed"] = passed(result)
    result["quick"] = options.quick
    keys = ("images", "large", "loo", "stretches", "steps", "seed", "threads")
    result["options"] = {key: getattr(options, key) for key in keys}
    versions = {**modeledit.versions(), "captum": version("captum"), "timm": version("timm")}
    return result | {"machine": platform.machine(), "versions": versions}


def passed(result: Mapping[str, Any]) -> dict[str, bool]:
    checks = {}
    for name, found in result["walks"].items():
        checks[f"{name}_{TARGETS[name]:.0f}x"] = found["cpu_speedup"] >= TARGETS[name]
        checks[f"{name}_identical"] = found["difference"] == 0
        checks[f"{name}_outside"] = found["outside"] <= OUTSIDE
    checks["captum_5x"] = result["captum"]["cpu_speedup"] >= TARGETS["captum"]
    checks["captum_same"] = result["captum"]["difference"] <= 1e-6
    return checks


def table(result: Mapping[str, Any]) -> Table:
    heads = ("what", "beside", "s", "beside, s", "faster", "by CPU", "outside", "apart")
    drawn = Table(*heads, box=SIMPLE_HEAD)
    rows = [
        (f"{n.removeprefix('tf_')}, walk", "hooks", f, f["outside"])
        for n, f in result["walks"].items()
    ]
    rows.append(("resnet18, each filter", "captum", result["captum"], None))
    for what, against, found, outside in rows:
        seconds = found["seconds"]
        drawn.add_row(
            what, against, f"{seconds['ours']:.2f}", f"{seconds[against]:.2f}",
            f"{found['speedup']:.1f}x", f"{found['cpu_speedup']:.1f}x",
            "" if outside is None else f"{outside:.0%}", f"{found['difference']:.1e}",
        )  # fmt: skip
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, help="of 32 px (default 100)")
    parser.add_argument("--large", type=int, help="images of 224 px (default 8)")
    parser.add_argument("--loo", type=int, help="images of the comparison with captum (default 16)")
    parser.add_argument("--stretches", type=int, help="of each walk (default 21)")
    parser.add_argument("--steps", type=int, help="of each stretch (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--checkpoint", type=Path, help="weights of tf_efficientnet_lite0")
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and layers")
    here = Path(__file__).parent / "results" / "subnets.json"
    parser.add_argument("--json", type=Path, default=here)
    options = parser.parse_args()
    usual = (32, 1, 8, 5, 6) if options.quick else (100, 8, 16, 21, 20)
    names = ("images", "large", "loo", "stretches", "steps")
    for name, value in zip(names, usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    torch.set_num_threads(options.threads)
    result = benchmark(options)
    Console().print(table(result))
    print(f"passed: {result['passed']}")
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return 0 if all(result["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
