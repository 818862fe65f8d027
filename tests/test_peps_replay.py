"""Replayed passes are full passes, bit for bit, and nothing is left patched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import modeledit
from modeledit.errors import ModelError
from modeledit.replay import Replay
from modeledit.toys import NETS, everything, net


class Tricks(nn.Module):
    """In-place results ignored by the caller, aliases, tuples, tied and functional parameters."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.same = nn.Identity()
        self.pair = Pair()
        self.spoil = Spoil()
        self.tied = nn.Conv2d(4, 4, 1)
        self.twin = nn.Conv2d(4, 4, 1)
        self.twin.weight = self.tied.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        y = self.same(x)
        y += 0.25  # changes x as well
        self.act(x)  # its result is not used, its side effect is
        left, right = self.pair(x)
        left = self.tied(left).mul_(self.scale)
        right.sub_(0.5)
        third = self.spoil(right)
        out = self.twin(left + right + third) + x
        out -= self.act(left)
        return self.head(F.relu_(out).mean((2, 3)))


class Spoil(nn.Module):
    """Changes its input and returns something else."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x += 0.75
        return self.conv(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1)
        self.b = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.a(x), self.b(x)


def make(name):
    if name == "tricks":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Tricks().eval()
    if name in NETS:
        return net(name).eval()
    options = {"img_size": 32} if "vit" in name else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=3, **options).eval()


def batch(model, count=3):
    channels = (
        next(p for p in model.parameters() if p.dim() == 4).shape[1]
        if any(p.dim() == 4 for p in model.parameters())
        else 1
    )
    size = 32 if channels == 3 else 6
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(2))


def gradient(logits, parameter):
    value = logits.logsumexp(1).sum() + logits[:, 0].sum()
    return torch.autograd.grad(value, parameter)[0]


def compare(model, limit):
    images = batch(model)
    replay = Replay(model, limit)
    recording = replay.record(images)
    model.requires_grad_(False)
    parameters = list(model.named_parameters())
    for name, parameter in parameters[:: 1 + len(parameters) // 30]:
        clean = parameter.detach().clone()
        parameter.requires_grad_(True)
        for step in (0.02, -0.03):
            with torch.no_grad():
                parameter.copy_(clean + step)
            full, short = model(images), replay.run(recording, [name])
            assert torch.equal(full, short), name
            assert torch.equal(gradient(full, parameter), gradient(short, parameter)), name
        with torch.no_grad():
            parameter.copy_(clean)
        parameter.requires_grad_(False)
    assert torch.equal(recording.logits, model(images))
    return recording


ZOO = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet"]


@pytest.mark.parametrize("name", ["tricks", *NETS, *ZOO])
def test_replay_is_a_full_pass_bit_for_bit(name):
    compare(make(name), 2**30)


def test_memory_is_bounded_and_the_answer_the_same():
    model = make("norm")
    limit, images = 3000, batch(model).nbytes
    unbounded = compare(model, 2**30).bytes
    assert images < compare(model, limit).bytes <= limit + images < unbounded
    assert compare(model, 0).bytes == images


@pytest.mark.parametrize("name", ["tricks", *NETS, *ZOO])
def test_a_recording_of_the_end_alone_is_small_and_exact(name):
    model = make(name)
    images = batch(model)
    ends = [n for n, _ in model.named_parameters()][-8:]
    replay = Replay(model, 2**30)
    whole = replay.record(images)
    end = replay.record(images, replay.needs(images[:1], ends))
    with torch.no_grad():
        for name in ends:
            model.get_parameter(name).mul_(1.01)
    assert torch.equal(replay.run(end, ends), replay.run(whole, ends))
    assert torch.equal(replay.run(end, ends), model(images))
    assert end.bytes < whole.bytes


def test_early_calls_are_not_executed_again():
    model = make("resnet18")
    images = batch(model)
    replay = Replay(model, 2**30)
    recording = replay.record(images)
    seen = []
    handles = [
        m.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    replay.run(recording, ["layer4.1.conv1.weight", "layer4.1.conv2.weight"])
    for handle in handles:
        handle.remove()
    # Whole stages are handed out without being entered, and so is the block before.
    assert seen == ["conv1", "layer4.1.conv1", "layer4.1.conv2"]


def test_nothing_stays_patched_also_when_the_model_raises():
    model = make("norm")
    model.conv2.forward = model.conv2.forward  # a caller's own patch survives
    before = everything(model)
    own = vars(model.conv2)["forward"]
    replay = Replay(model, 2**30)
    replay.run(replay.record(batch(model)), ["conv2.weight"])
    with pytest.raises(RuntimeError):
        replay.record(torch.zeros(1, 5, 6, 6))
    assert everything(model) == before
    assert vars(model.conv2)["forward"] is own


def test_a_model_that_changes_its_path_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(36, 3), nn.Linear(36, 3)
            self.head = nn.Linear(3, 3)
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            return self.head((self.a if self.turn % 2 else self.b)(x.flatten(1)))

    model = Fickle()
    images = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    replay = Replay(model, 2**30)
    recording = replay.record(images)
    with pytest.raises(ModelError, match="use neighbourhood=joint"):
        replay.run(recording, ["head.weight"])


def test_hooks_and_patches_live_in_two_files():
    folder = Path(modeledit.__file__).parent
    strays = [
        f"{path.name}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        if path.name not in ("surgery.py", "replay.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\.register_\w*hook|\.forward\s*=[^=]", line)
    ]
    assert strays == []
