"""The folder is the registry, and every plugin keeps the contract."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass

import pytest
import torch

from modeledit import plugins
from modeledit.errors import ModelEditError
from modeledit.scorers import Found, Job, Scorer
from modeledit.testing import EditorContract, ScorerContract
from modeledit.toys import everything, net

PLAIN = {"selective": False, "samples": 3, "eps": 0.05, "inputs": 4}
VARIANTS = {
    "peps-ig": ("peps", PLAIN),
    "peps-variance": ("peps", {**PLAIN, "measure": "gradient-variance"}),
    "peps-stability": ("peps", {**PLAIN, "measure": "stability"}),
    "peps-consistency": ("peps", {**PLAIN, "measure": "consistency"}),
    "peps-tensor": ("peps", {**PLAIN, "neighbourhood": "tensor"}),
    "taylor-product": ("taylor", {"expectation": "product"}),
    "ssd-product": ("ssd", {"expectation": "product"}),
}
SCORERS = {**{name: (name, {}) for name in plugins.names("scorers")}, **VARIANTS}
# What does not look at the target, or not at the sign of what a unit does to it.
BLIND = {"random", "magnitude", "peps-stability", "ssd", "ssd-product"}


class TestScorers(ScorerContract):
    @pytest.fixture(autouse=True, params=sorted(SCORERS))
    def _each(self, request):
        name, self.options = SCORERS[request.param]
        self.plugin = plugins.load("scorers", name)
        self.finds_planted = request.param not in BLIND


class TestEditors(EditorContract):
    @pytest.fixture(autouse=True, params=plugins.names("editors"))
    def _each(self, request):
        self.plugin = plugins.load("editors", request.param)


SCRIPT = """
from modeledit import plugins
from modeledit.data import Split
from modeledit.runtime import Runtime
from modeledit.toys import *
for name in plugins.names("scorers"):
    cls = plugins.load("scorers", name)
    for granularity in cls.granularities:
        scores = cls(granularity=granularity)(
            net("norm"), Split.of(images()), TARGET, Runtime(batch_size=5, seed=2))
        print(name, granularity, fingerprint(scores))
"""


def test_another_process_and_hash_seed_give_the_same_bytes():
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = io.StringIO()
    with redirect_stdout(here):
        exec(SCRIPT, {})
    assert done.stdout == here.getvalue()
    assert len(done.stdout.splitlines()) >= 10


def test_names_are_file_names():
    assert plugins.names("scorers") == sorted(plugins.names("scorers"))
    assert {"magnitude", "peps", "response-norm"} <= set(plugins.names("scorers"))
    assert {"dampen", "mean-ablate", "zero"} <= set(plugins.names("editors"))
    for kind in ("scorers", "editors"):
        assert list(plugins.summaries(kind)) == plugins.names(kind)
        assert all(plugins.summaries(kind).values())


def test_unknown_plugin_and_option_are_named():
    with pytest.raises(ModelEditError, match="no scorer is called 'pepz': use one of"):
        plugins.create("scorers", "pepz")
    with pytest.raises(ModelEditError, match=r"magnitude has no option 'power': use one of \w"):
        plugins.create("scorers", "magnitude", {"power": 2})


@dataclass(frozen=True)
class Careless(Scorer):
    """Writes to the caller's weights and draws from the global generator."""

    def passes(self, shown: int, others: int, tensors: int) -> int:
        del shown, others, tensors
        return 0

    def run(self, job: Job) -> Found:
        for tensor in job.original.values():
            tensor.data.add_(torch.rand(()))
        return Found({name: torch.rand(job.original[name].shape) for name in job.anatomy.weights})


@dataclass(frozen=True)
class Half(Scorer):
    """Leaves units out."""

    def passes(self, shown: int, others: int, tensors: int) -> int:
        del shown, others, tensors
        return 0

    def run(self, job: Job) -> Found:
        return Found({job.anatomy.weights[0]: job.original[job.anatomy.weights[0]]})


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (Careless, "test_nothing_of_the_caller_is_touched"),
        (Careless, "test_same_seed_same_bytes"),
        (Careless, "test_a_planted_unit_comes_first"),
        (Half, "test_every_unit_has_a_finite_float32_score"),
    ],
)
def test_the_contract_catches_a_bad_scorer(plugin, promise):
    contract = ScorerContract()
    contract.plugin = plugin
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        getattr(contract, promise)()


def test_everything_notices_each_change():
    def mode(model):
        model.eval()

    def weight(model):
        model.conv1.weight.data[0, 0, 0, 0] += 1e-6

    def buffer(model):
        model.bn1.running_mean.add_(1e-3)

    def gradient(model):
        model.conv1.weight.grad = torch.zeros_like(model.conv1.weight)

    def frozen(model):
        model.conv1.weight.requires_grad_(False)

    def hook(model):
        model.conv1.register_forward_hook(lambda *_: None)

    def draw(_model):
        torch.rand(())

    for change in (mode, weight, buffer, gradient, frozen, hook, draw):
        model = net("norm")
        before = everything(model)
        change(model)
        assert everything(model) != before, change.__name__
