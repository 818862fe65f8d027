"""`modeledit study distributions`: its numbers against the scorer's, its networks, its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modeledit.cli.main import main
from torch import nn

from modeledit import toys
from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers.peps import Peps
from modeledit.study import distributions, networks
from modeledit.study.distribution_figures import figures
from modeledit.study.distributions import Settings, shape_of, study
from modeledit.study.gathering import MEASURES, gather
from modeledit.targets import Accuracy

SPLIT = Split.of(toys.images(), "train")
RUNTIME = Runtime(seed=3)


@pytest.mark.parametrize("neighbourhood", ["joint", "tensor"])
@pytest.mark.parametrize("per", ["weight", "filter"])
def test_one_round_of_gradients_gives_what_the_scorer_gives(neighbourhood: Any, per: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # The scorer by filter moves matrices alone: without biases the two move the same.
        layers = nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False)
        model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    shown = SPLIT.sample(5, RUNTIME.seed)
    before = toys.everything(model)
    found = gather(
        model, shown, eps=0.5, samples=3, f="margin", neighbourhood=neighbourhood, runtime=RUNTIME
    )
    assert toys.everything(model) == before
    for measure in MEASURES:
        scorer = Peps(
            measure=measure, selective=False, eps=0.5, samples=3, inputs=5, granularity=per,
            neighbourhood=neighbourhood,
        )  # fmt: skip
        expected = scorer(model, SPLIT, Accuracy(), RUNTIME).values
        assert len(found[measure, per]) == len(expected) == 2
        for ours, theirs in zip(found[measure, per].values(), expected.values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_radius_that_breaks_the_network_is_refused() -> None:
    with pytest.raises(ModelEditError, match="not finite: use a smaller --eps"):
        gather(
            toys.net("norm"), SPLIT.sample(2, 0), eps=1e38, samples=2, f="margin",
            neighbourhood="joint", runtime=RUNTIME,
        )  # fmt: skip


def test_untrained_is_another_network_and_the_generators_stay() -> None:
    model = toys.net("norm")
    before = toys.everything(model)
    state, again, other = (networks.untrained(model, seed).state_dict() for seed in (1, 1, 2))
    assert toys.everything(model) == before
    assert all(torch.equal(state[name], again[name]) for name in state)
    for name in ("conv1.weight", "head.weight"):
        assert not torch.equal(state[name], model.state_dict()[name])
        assert not torch.equal(state[name], other[name])
    assert torch.equal(state["bn1.running_var"], torch.ones(4))


def test_training_a_little_helps() -> None:
    start = networks.untrained(toys.net("norm"), 1)
    before = toys.everything(start)
    trained = networks.partly_trained(start, SPLIT, 30, RUNTIME)
    assert toys.everything(start) == before
    batch = next(SPLIT.batches(RUNTIME))
    losses = [
        torch.nn.functional.cross_entropy(net(batch.images), batch.labels).item()
        for net in (start, trained)
    ]
    assert losses[1] < 0.5 * losses[0]
    with pytest.raises(ModelEditError, match="diverged"):
        networks.partly_trained(start, SPLIT, 30, RUNTIME, rate=1e30)


def test_a_shape_counts_what_is_there() -> None:
    values = torch.cat([torch.zeros(50), torch.linspace(-1, 1, 150)])
    shape = shape_of({"a": values[:100], "b": values[100:]}, "ig", seed=0)
    assert shape.total == 200
    assert shape.zeros == 0.25
    assert shape.edges[0] == -shape.edges[-1]
    assert shape.counts.sum() == round(150 * (1 - shape.outside)) == 136  # cut at quantile 0.9
    assert [len(part) for part in shape.layers.values()] == [100, 100]
    dead = shape_of({"a": torch.zeros(30)}, "gradient-variance", seed=0)
    assert (dead.zeros, dead.counts.sum(), dead.fits) == (1.0, 0, ())


def test_trained_against_random() -> None:
    model = toys.net("norm")
    nets = {"trained": model, "random": networks.untrained(model, 1)}
    found = study(nets, SPLIT, Accuracy(), Settings(4, 3, (1.0,)), RUNTIME)
    layers = found.layers()
    assert len(layers.rows) == sum(
        len(s.layers) for k, s in found.shapes.items() if k[0] == "trained"
    )
    row = layers.records()[0]
    trained = found.shapes["trained", 1.0, "ig", "weight"].layers[str(row["layer"])]
    assert row["trained_median"] == pytest.approx(np.median(np.abs(trained)))
    assert all(-1 <= float(r["cliffs_delta"]) <= 1 for r in layers.records())  # type: ignore[arg-type]
    same = study({"trained": model, "random": model}, SPLIT, Accuracy(), Settings(4, 3), RUNTIME)
    assert set(same.layers().column("cliffs_delta")) == {0.0}
    assert set(figures(found)) == {
        "histograms-weight-eps1", "histograms-filter-eps1", "effects-weight", "effects-filter"
    }  # fmt: skip
    with pytest.raises(ModelEditError, match="no network is called 'random'"):
        study({"trained": model}, SPLIT, Accuracy(), Settings(4, 3), RUNTIME)


@pytest.mark.parametrize(
    "bad", [{"inputs": 0}, {"samples": 0}, {"eps": ()}, {"eps": (1.0, 1.0)}, {"f": "logits"}]
)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ModelEditError):
        Settings(**bad)  # type: ignore[arg-type]


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributions, "POOLED", 100)  # fits take most of the time
    args = ["study", "distributions", "--demo", "--limit", "40", "--inputs", "2", "--samples", "2"]
    assert main([*args, "--eps", "1", "--steps", "2", "-q", "-o", "out"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "wrote  out: study.json, 4 tables, 4 pictures" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    summary = json.loads(Path("out/study.json").read_text())
    names = [each["network"] for each in summary["tables"]["networks"]]
    assert names == ["trained", "partly trained", "random"]
    assert summary["tables"]["networks"][0]["accuracy"] > 0.9
    assert len(list(Path("out").glob("*.svg"))) == 4
    assert main([*args, "-q", "-o", "out"]) == 2
    assert "-o out exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--eps", "1,1"], "no list of different numbers"),
        (["--eps", "-1"], "no list of different numbers"),
        (["--inputs", "0"], "whole number from 1"),
        (["--partly", "none.safetensors"], "none.safetensors does not exist"),
        (["--target", "class:12", "--inputs", "1"], "class 12 is out of range"),
        (["--target", "group"], "use accuracy or class:NAME"),
    ],
)
def test_one_line_says_what_is_wrong(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["study", "distributions", "--demo", "-q", *args]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_constants_fit_each_other() -> None:
    assert set(distributions.SUPPORT) == set(MEASURES)
    assert set(distributions.CUT) == set(distributions.SUPPORT.values())
