"""The demo's digits as a manifest with groups: half of them are hard to read for its network."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from modeledit import demo
from modeledit.data.cutting import complete
from modeledit.data.tables import UNSPLIT

MODEL = [
    "--model", "timm:test_byobnet", "--model-arg", "num_classes=10", "--model-arg", "in_chans=1",
    "--checkpoint", str(demo.WEIGHTS), "--input-size", "32", "--mean", ".305", "--std", ".377",
]  # fmt: skip
NOISE = 70  # levels of 255


def manifest(folder: Path, noise: float = NOISE, limit: int | None = None) -> Path:
    """manifest.csv and its pictures. Columns: group (plain, or noisy every other image), half (of
    the classes, so that each group is on one side of digit 5), print (one value), seven (whether it
    is a 7)."""
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    cut = complete(np.full(len(labels), UNSPLIT, np.int8), labels, 0).rows
    generator = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "split", "group", "half", "print", "seven"])
        for split, rows in cut.items():
            for number, row in enumerate(rows.tolist()[:limit]):
                pixels = bunch.images[row] * 255 / 16
                hard = number % 2
                if hard:
                    pixels = np.clip(pixels + generator.normal(0, noise, pixels.shape), 0, 255)
                name = f"images/{row:04d}.png"
                Image.fromarray(pixels.round().astype(np.uint8)).save(folder / name)
                label = int(labels[row])
                group = "noisy" if hard else "plain"
                half = "low" if label < 5 else "high"
                out.writerow(
                    [name, label, split, group, half, "grey", "yes" if label == 7 else "no"]
                )
    return path
