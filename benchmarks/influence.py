"""Layer influence: beside kronfluence, planted label errors, solvers, leave-one-out retraining.

    python benchmarks/influence.py [--data folder:cifar10.zip --checkpoint FILE] [--json FILE]

Without data the network is the demo's; with it, the CIFAR-10 ResNet-18. kronfluence 1.0.1 is
Apache-2.0: `pip install kronfluence`. Label errors are planted in the demo's digits, and a network
is trained on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from influence_checks import leave_one_out, planted, solvers
from influence_peer import METHODS, beside_kronfluence, child

import modeledit

RESULT = Path(__file__).parent / "results" / "influence.json"


def checks(options: argparse.Namespace) -> dict[str, Any]:
    """What takes a minute or two, on the demo's data."""
    return {
        "leave_one_out_correlation": leave_one_out(options.seed),
        "relative_difference_from_exact": solvers(options.seed),
        "planted_label_errors": planted(options.seed),
    }


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """What is measured beside kronfluence, and on what."""
    return {
        "beside_kronfluence": {
            **beside_kronfluence(),
            "model": "CIFAR-10 ResNet-18" if options.data else "demo",
            "train": options.train,
            "test": options.test,
            "widest": options.widest,
        }
    }


def passed(result: dict[str, Any]) -> dict[str, bool]:
    """The targets, of those parts that were measured."""
    found: dict[str, bool] = {}
    if beside := result.get("beside_kronfluence"):
        found["kronfluence_r"] = beside["least_correlation"] >= 0.99
        found["kronfluence_time"] = beside["time_ratio"] <= 1.2
        # No growth at all would mean that the measurement, not the method, is at fault.
        found["kronfluence_memory"] = 0 < beside["memory_ratio"] < 1
    if errors := result.get("planted_label_errors"):
        agreement = result["relative_difference_from_exact"]
        found["label_errors"] = errors["found_in_the_top"] >= 0.75
        found["solvers"] = agreement["cg"] <= 1e-4 and agreement["lissa"] <= 0.02
        found["leave_one_out"] = result["leave_one_out_correlation"] >= 0.9
    return found


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for; the others are kept as the file has them."""
    result = json.loads(options.json.read_text()) if options.only and options.json.exists() else {}
    for name, part in (("checks", checks), ("peer", peer)):
        if options.only in (None, name):
            result |= part(options)
    return {
        **result,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {**modeledit.versions(), "kronfluence": version("kronfluence")},
        "passed": passed(result),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--widest", type=int, default=10**9, help="inputs of a layer's outputs")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--only", choices=("checks", "peer"), help="the file keeps the other part")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--scores", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.method:
        child(options)
        return 0
    result = benchmark(options)
    print(json.dumps(result, indent=1))
    options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return 0 if all(result["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
