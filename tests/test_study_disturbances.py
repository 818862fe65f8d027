"""`modeledit study disturbances`: statistics by hand, clusters against scipy, regions exactly."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from modeledit.cli.main import main
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform
from torch import nn

from modeledit import toys
from modeledit.errors import ModelEditError
from modeledit.influence import influence
from modeledit.runtime import Runtime
from modeledit.study import disturbance_figures
from modeledit.study.clustering import cluster
from modeledit.study.disturbance_figures import figures
from modeledit.study.disturbance_tables import band, tables
from modeledit.study.disturbances import Disturbances, Settings, study
from modeledit.study.regions import CellGame, hidden, regions
from modeledit.study.variants import Pictures, Scale, Variant

RUNTIME = Runtime(seed=2)
SCALE = Scale(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


def pictures(count: int) -> Pictures:
    images, labels = toys.images(count).tensors
    return Pictures(images.clamp(0, 1), labels)


def found(**options: object) -> Disturbances:
    test, train = pictures(6), pictures(15)
    variants = [
        Variant("original", test.pixels),
        Variant("same", test.pixels.clone()),
        Variant("inverse", 1 - test.pixels, (test.labels + 1) % 3),
    ]
    settings = Settings(side=2, evaluations=20, shown=2, top=3, **options)  # type: ignore[arg-type]
    names = ("a", "b", "c")
    return study(toys.net("norm"), variants, test.labels, train, SCALE, names, settings, RUNTIME)


def test_statistics_are_those_of_the_influence_itself() -> None:
    test, train = pictures(6), pictures(15)
    model = toys.net("norm")
    before = toys.everything(model)
    made = found()
    assert toys.everything(model) == before
    direct = influence(
        model, SCALE.split(train.pixels, train.labels, "train"),
        SCALE.split(1 - test.pixels, test.labels, "test"), runtime=RUNTIME,
    )  # fmt: skip
    place = made.names.index("inverse")
    values = direct.values.numpy()
    for image in range(6):
        same = train.labels.numpy() == int(test.labels[image])
        for layer in range(len(direct.layers)):
            column = values[layer, :, image]
            assert made.intra[place, layer, image] == pytest.approx(column[same].mean(), rel=1e-3)
            assert made.inter[place, layer, image] == pytest.approx(column[~same].mean(), rel=1e-3)
    total = values.sum(0)
    for a, b in itertools.product(range(3), repeat=2):
        block = total[train.labels.numpy() == b][:, test.labels.numpy() == a]
        assert made.by_class[place, a, b] == pytest.approx(block.mean(), rel=1e-3)
    best = int(total[:, 4].argmax())
    assert made.top[place, 4, 0] == best
    assert made.top_values[place, 4, 0] == pytest.approx(total[best, 4], rel=1e-3)


def test_accuracy_and_the_textures_labels() -> None:
    made = found()
    model, test = toys.net("norm").eval(), pictures(6)
    predicted = model(1 - test.pixels).argmax(1)
    answers = made.answers[2]
    assert answers.hits == int((predicted == test.labels).sum())
    assert answers.textured == int((predicted == (test.labels + 1) % 3).sum())
    assert made.answers[0].textured is None


def test_what_is_the_same_clusters_together() -> None:
    for distance in ("correlation", "euclidean"):
        clusters = found(distance=distance).clusters
        assert clusters.nearest("original") == "same"
        assert {frozenset(group) for group in clusters.split(2)} == {
            frozenset({"original", "same"}), frozenset({"inverse"})
        }  # fmt: skip


def test_the_profile_that_is_clustered() -> None:
    made = found()
    parts = {"intra": made.intra.mean(2), "inter": made.inter.mean(2)}
    parts["both"] = np.hstack([parts["intra"], parts["inter"]])
    for profile, rows in parts.items():
        settings = replace(made.settings, profile=profile)  # type: ignore[arg-type]
        clusters = replace(made, settings=settings).clusters
        np.testing.assert_allclose(clusters.correlation, np.corrcoef(rows), atol=1e-9)


@pytest.mark.parametrize("distance", ["correlation", "euclidean"])
def test_distances_are_scipys(distance: str) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 7))
    names = tuple("abcde")
    made = cluster(names, rows, distance)  # type: ignore[arg-type]
    np.testing.assert_allclose(made.distances, squareform(pdist(rows, distance)), atol=1e-12)
    np.testing.assert_allclose(made.correlation, np.corrcoef(rows), atol=1e-12)
    linkage = hierarchy.linkage(pdist(rows, distance), "average")
    np.testing.assert_allclose(made.linkage, linkage, atol=1e-12)
    flat = cluster(names, np.vstack([rows[:4], np.ones(7)]), distance)  # type: ignore[arg-type]
    assert flat.correlation[4].tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(ModelEditError, match="cannot be clustered"):
        cluster(("a",), rows[:1], "correlation")


class Quadrants(nn.Module):
    """Logit 1 is a sum of what is in two quadrants, and their product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0, :2, :2].mean((1, 2)), x[:, 0, 2:, 2:].mean((1, 2))
        return torch.stack([torch.zeros_like(a), 2 * a + a * b], 1)


def test_a_cell_that_is_absent_is_hidden() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[:, :, :2, :2], image[:, :, 2:, 2:] = 1.0, 0.6
    game = CellGame(Quadrants(), image, torch.zeros_like(image), torch.tensor([1]), 2)
    for members, logit in (((0,), 2.0), ((3,), 0.0), ((1, 2), 0.0), ((0, 3), 2.6), ((0, 2), 2.0)):
        alive = torch.tensor([player in members for player in range(4)])
        assert game.value(alive)[0] == pytest.approx(1 / (1 + math.exp(-logit)))


def test_regions_are_exact_shapley_values_on_a_small_grid() -> None:
    image = torch.zeros(2, 1, 4, 4)
    image[:, :, :2, :2] = 1.0
    image[:, :, 2:, 2:] = 0.6
    labels = torch.tensor([1, 0])
    made = regions(Quadrants(), image, labels, 2, 1000, RUNTIME)
    game = CellGame(Quadrants(), image[:1], hidden(image[0])[None], labels[:1], 2)

    def value(members: tuple[int, ...]) -> float:
        alive = torch.tensor([player in members for player in range(4)])
        return float(game.value(alive)[0])

    for player in range(4):
        others = [p for p in range(4) if p != player]
        expected = 0.0
        for size in range(4):
            weight = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
            for members in itertools.combinations(others, size):
                expected += weight * (value((*members, player)) - value(members))
        assert made[0, player // 2, player % 2] == pytest.approx(expected, abs=1e-6)
    assert made[0].sum() == pytest.approx(value((0, 1, 2, 3)) - value(()), abs=1e-6)
    assert made[0].argmax() == 0
    np.testing.assert_allclose(made[1], -made[0], atol=1e-6)  # the other of two classes


def test_tables_and_pages() -> None:
    made = found()
    sheets = tables(made)
    assert {name: len(table.rows) for name, table in sheets.items()} == {
        "accuracy": 3, "profiles": 3 * len(made.layers), "correlations": 3, "classes": 9,
        "influential": 3 * 6 * 3, "regions": 3 * 2 * 4,
    }  # fmt: skip
    assert sheets["accuracy"].column("takes_texture")[:2] == [None, None]
    mean, low, high = band(np.array([1.0, 2.0, 3.0]))
    assert (mean, high - mean) == pytest.approx((2, 1.959964 / 3**0.5))
    assert low == pytest.approx(4 - high)
    pages = set(figures(made))
    assert pages == {"examples", "clusters", "profiles", "classes", "image-0", "image-1"}


@pytest.mark.parametrize(
    "bad",
    [
        {"distance": "cosine"},
        {"profile": "all"},
        {"shown": 0},
        {"side": 1},
        {"evaluations": 1},
        {"top": 0},
    ],
)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ModelEditError):
        Settings(**bad)  # type: ignore[arg-type]
    with pytest.raises(ModelEditError, match="top 99 of 15"):
        study(
            toys.net("norm"), [Variant("a", pictures(6).pixels)] * 2, pictures(6).labels,
            pictures(15), SCALE, ("a", "b", "c"), Settings(top=99),
        )  # fmt: skip


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # One page stands for all of them, which take longest.
    one = disturbance_figures.clusters
    monkeypatch.setattr(disturbance_figures, "figures", lambda found: {"clusters": one(found)})
    args = ["study", "disturbances", "--demo", "--limit", "30", "--images", "3", "-q"]
    few = ["--training-images", "12", "--transfer-steps", "1", "--evaluations", "10", "--show", "1"]
    few += ["--layers", "stem.conv,stages.0.0.conv1_kxk.conv,head.fc", "--side", "2"]
    assert main([*args, *few, "--disturb", "texture,blur", "--texture", "1", "-o", "out"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "texture 100 %" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    summary = json.loads(Path("out/study.json").read_text())
    rows = summary["tables"]["accuracy"]
    assert [row["variant"] for row in rows] == ["original", "texture 100 %", "blur"]
    assert Path("out/clusters.svg").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--disturb", "fog"], "use white-background"),
        (["--masks", "none"], "--masks none does not exist"),
        (["--style", "none.png"], "--style none.png does not exist"),
        (["--features-checkpoint", "."], "goes with --features"),
        (["--masks", ".", "--disturb", "blur"], "--masks is for white-background"),
        (["--masks", ".", "--limit", "20"], "has no mask for"),
        (["--texture", "0"], "no list of shares above 0"),
    ],
)
def test_one_line_says_what_is_wrong(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["study", "disturbances", "--demo", "-q", "-o", "out", *args]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
