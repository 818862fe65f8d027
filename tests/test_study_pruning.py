"""`modeledit study pruning`: exact counts, curves by hand, what it compares, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from modeledit.cli.main import main
from scipy import stats

from modeledit import toys
from modeledit.data import Data
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers.taylor import Taylor
from modeledit.study import pruning
from modeledit.study.contestants import contestants
from modeledit.study.pruning import Settings, interval, study
from modeledit.study.pruning_figures import figures
from modeledit.targets import Accuracy, ForgetClass

DATA = Data.of(toys.images(24), toys.images(12), toys.images(30))
SMALL = Settings(shares=(0.25, 0.5), samples=(2,), inputs=4, replicates=2)


def run(settings: Settings, scorers: list[str], target: Any = toys.TARGET) -> pruning.Curves:
    return study(toys.net("norm"), DATA, [target], settings, scorers, Runtime(seed=1))


def test_counts_are_exact_and_the_network_comes_back() -> None:
    model = toys.net("norm")
    before = toys.everything(model)
    found = study(model, DATA, [Accuracy()], SMALL, ["magnitude"], Runtime())
    assert toys.everything(model) == before
    sizes = [p.numel() for n, p in model.named_parameters() if not n.startswith("head")]
    for point in found.points:
        assert point.zeroed == sum(int(size * point.share) for size in sizes)
    assert len({p.score for p in found.points}) == 4 + 1 + 1
    # Two replicates of two orders and two shares each; chance has one order.
    assert len(found.points) == 2 * 2 * (2 * 5 + 1)


def test_a_point_is_what_zeroing_the_top_leaves() -> None:
    model, runtime = toys.net("norm"), Runtime(seed=1)
    found = run(SMALL, ["taylor"])
    scores = Taylor(tensors="all")(model, DATA.train, toys.TARGET, runtime)
    state = model.state_dict()
    for name, values in scores.values.items():
        top = values.flatten().argsort(descending=True)[: values.numel() // 2]
        state[name].view(-1)[top] = 0
    edited = toys.net("norm").eval()
    edited.load_state_dict(state)
    batch = next(DATA.test.batches(Runtime()))
    right = edited(batch.images).argmax(1) == batch.labels
    point = next(
        p for p in found.points
        if (p.score, p.order, p.share, p.replicate) == ("taylor", "highest", 0.5, 0)
    )  # fmt: skip
    assert point.measured["accuracy"] == pytest.approx(right.float().mean().item())
    shown = batch.labels == 1
    assert point.measured["class_recall"] == pytest.approx(right[shown].float().mean().item())
    assert point.measured["retain_accuracy"] == pytest.approx(right[~shown].float().mean().item())
    assert point.recalls[1] == point.measured["class_recall"]


def test_random_removes_as_many_as_every_score() -> None:
    found = run(SMALL, ["magnitude"])
    by_share: dict[float, set[int]] = {}
    for point in found.points:
        by_share.setdefault(point.share, set()).add(point.zeroed)
    assert all(len(counts) == 1 for counts in by_share.values())


def test_replicates_draw_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def recorded(*_args: Any, **options: Any) -> list[Any]:
        seeds.append(options["runtime"].seed)
        return []

    monkeypatch.setattr(pruning, "scored", recorded)
    run(SMALL, [])
    assert seeds == [1, 2]


def test_negated_highest_is_signed_lowest() -> None:
    both = Settings(readings=("signed", "negated", "magnitude"))
    assert list(both.ways()) == [
        ("signed", "highest"), ("signed", "lowest"), ("magnitude", "highest"),
        ("magnitude", "lowest"),
    ]  # fmt: skip
    assert list(Settings(orders=("highest",), readings=("signed", "negated")).ways()) == [
        ("signed", "highest"), ("negated", "highest")
    ]  # fmt: skip
    one = Settings(
        shares=(0.5,), samples=(2,), inputs=4, replicates=1, orders=("highest",),
        readings=("signed", "negated"),
    )  # fmt: skip
    turned = run(one, ["taylor"]).curve("class:1", "taylor", "negated", "highest", "accuracy")
    low = Settings(shares=(0.5,), samples=(2,), inputs=4, replicates=1, orders=("lowest",))
    assert turned == run(low, ["taylor"]).curve("class:1", "taylor", "signed", "lowest", "accuracy")


def test_by_filter_with_all_scorers() -> None:
    settings = Settings("filter", (0.5,), ("highest",), samples=(2,), inputs=4, replicates=1)
    chosen, notes = contestants("filter", None)
    assert {"conductance", "leave-one-out", "peps, selective", "random"} <= {c.name for c in chosen}
    assert len(notes) == 1
    assert notes[0].startswith("do not score by filter: ssd, ")
    assert "conductance" not in notes[0]
    found = run(settings, ["response-norm"])
    assert {p.zeroed for p in found.points} == {4}  # two of four filters, in two layers
    pages = figures(found)
    assert list(pages) == ["class-1-signed-accuracy", "class-1-signed-class-f1"]


def test_what_does_not_fit_a_target_is_noted_or_refused() -> None:
    settings = Settings(shares=(0.5,), samples=(2,), inputs=4, replicates=1, orders=("highest",))
    found = study(toys.net("norm"), DATA, [Accuracy()], settings, None, Runtime())
    assert any("peps, selective is left out for accuracy" in note for note in found.notes)
    assert any("stepwise-peps is left out" in note for note in found.notes)
    with pytest.raises(ModelEditError, match="order of editing"):
        run(settings, ["stepwise-peps"])
    with pytest.raises(ModelEditError, match="conductance does not score by weight"):
        run(settings, ["conductance"])
    with pytest.raises(ModelEditError, match="no example of class:7"):
        run(settings, [], ForgetClass((7,)))


def test_the_interval() -> None:
    values = [0.2, 0.3, 0.55]
    mean, low, high = interval(values)
    expected = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(values))
    assert (low, high) == pytest.approx((max(0, expected[0]), expected[1]))
    assert interval([0.4]) == (0.4, 0.4, 0.4)
    assert interval([0.0, 1.0])[1:] == (0.0, 1.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"shares": (0.0,)}, {"shares": (0.1, 0.1)}, {"shares": ()}, {"orders": ("first",)},
        {"readings": ("absolute",)}, {"replicates": 0}, {"granularity": "layer"},
    ],
)  # fmt: skip
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ModelEditError):
        Settings(**bad)


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["study", "pruning", "--demo", "--limit", "20", "--target", "class:3", "-q"]
    few = ["--scorers", "magnitude", "--shares", "0.1", "--replicates", "1", "--inputs", "2"]
    assert main([*args, *few, "--samples", "2", "-o", "out"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "class:3: F1 of the class left" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    summary = json.loads(Path("out/study.json").read_text())
    assert len(summary["tables"]["curves"]) == 2 * 5 + 1
    assert summary["settings"]["shares"] == [0.1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shares", "0,0.1"], "no list of shares above 0"),
        (["--shares", "1.5"], "no list of shares above 0"),
        (["--orders", "first"], "use highest, lowest"),
        (["--samples", "0"], "no list of different counts"),
        (["--scorers", "magnitud"], "no scorer is called 'magnitud'"),
    ],
)
def test_one_line_says_what_is_wrong(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["study", "pruning", "--demo", "-q", *args]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
