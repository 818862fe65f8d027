"""Checkpoints that fit, those that do not, pickles on request, and modules from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from modeledit.errors import CheckpointError, ModelError
from modeledit.models import LoadedModel, load_model

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def resnet_state() -> State:
    """A timm model for 5 classes of grey pictures."""
    model = timm.create_model("test_resnet", num_classes=5, in_chans=1)
    return dict(model.state_dict())


@pytest.fixture
def resnet_file(tmp_path: Path, resnet_state: State) -> Path:
    save_file(resnet_state, tmp_path / "resnet.safetensors")
    return tmp_path / "resnet.safetensors"


def changed(change: Callable[[State], Any]) -> Callable[[State], State]:
    def make(state: State) -> State:
        copy = dict(state)
        change(copy)
        return copy

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed(lambda s: s.pop("fc.bias")), r"1 missing \(fc\.bias\)"),
        (changed(lambda s: s.update(odd=torch.ones(1))), r"1 unknown \(odd\)"),
        (
            changed(lambda s: s.update({"fc.bias": torch.ones(6)})),
            r"1 of another shape \(fc\.bias \[6\] for \[5\]\)",
        ),
        (
            changed(lambda s: s.update({"fc.bias": torch.ones(5, dtype=torch.int8)})),
            r"fc\.bias \[5\] int8 for \[5\]",
        ),
        (
            lambda s: {n: t for n, t in s.items() if not n.startswith("layer1")},
            r"\d+ missing \(layer1\S+, layer1\S+, layer1\S+, \.\.\.\)",
        ),
        (
            changed(lambda s: s.update({"fc.bias": torch.full((5,), torch.nan)})),
            "fc.bias holds NaN",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, resnet_state: State, make: Callable[[State], State], message: str
) -> None:
    save_file(make(resnet_state), tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model("timm:test_resnet", tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)
    assert "bad.safetensors" in str(caught.value)


def test_files_that_are_none(tmp_path: Path, resnet_file: Path, resnet_state: State) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(resnet_file.read_bytes()[:-100])
    pickled = tmp_path / "model.pth"
    torch.save(resnet_state, pickled)
    text = tmp_path / "text.safetensors"
    text.write_text("hello, this is no checkpoint")
    for path, message in [
        (cut, "truncated"),
        (pickled, "--allow-pickle"),
        (text, "not a safetensors file"),
        (tmp_path / "none", "is not a file"),
    ]:
        with pytest.raises(CheckpointError, match=message) as caught:
            load_model("timm:test_resnet", path)
        assert "\n" not in str(caught.value)


def test_counters_may_be_missing_and_half_precision_is_widened(
    tmp_path: Path, resnet_state: State
) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        half = {n: t.to(dtype) for n, t in resnet_state.items() if "num_batches" not in n}
        save_file(half, tmp_path / "half.safetensors")
        loaded = load_model("timm:test_resnet", tmp_path / "half.safetensors")
        state = loaded.module.state_dict()
        assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}
        assert all(torch.equal(state[n], t.float()) for n, t in half.items())
        assert {t.dtype for t in loaded.base_state().values()} == {dtype}


@pytest.mark.parametrize(
    ("wrap", "used"),
    [
        (lambda s: s, "the top level of m.pth"),
        (lambda s: {"epoch": 3, "model": s, "state_dict": s}, "key 'state_dict' of m.pth"),
        (
            lambda s: {"model": {f"module.{n}": t for n, t in s.items()}},
            "without the prefix 'module.'",
        ),
    ],
)
def test_pickles_on_request(
    tmp_path: Path, resnet_state: State, wrap: Callable[[State], object], used: str
) -> None:
    torch.save(wrap(resnet_state), tmp_path / "m.pth")
    loaded = load_model("timm:test_resnet", tmp_path / "m.pth", allow_pickle=True)
    assert used in loaded.notes[0]
    assert loaded.num_classes == 5
    state = loaded.base_state()  # there is no safetensors file to keep the layout of
    assert all(torch.equal(state[n], t) for n, t in resnet_state.items())


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it ran",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state_dict": Evil()}, "cannot be read as plain tensors"),
        ({"epoch": 3, "best": 0.5}, "holds keys epoch, best: weights must be"),
        ([torch.ones(1)], "holds list"),
        ({"fc.bias": torch.full((5,), torch.inf)}, "holds NaN or infinity"),
    ],
)
def test_pickles_that_are_refused(tmp_path: Path, value: object, message: str) -> None:
    torch.save(value, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model("timm:test_resnet", tmp_path / "m.pth", allow_pickle=True)
    assert "\n" not in str(caught.value)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(images.mean((2, 3))))


def test_one_name_of_a_tied_tensor_is_enough_and_two_must_agree() -> None:
    loaded = LoadedModel.of(Tied(), num_classes=3)
    state = {n: torch.randn_like(t) for n, t in Tied().a.state_dict(prefix="b.").items()}
    fresh = loaded.fresh(state)
    assert torch.equal(fresh.a.weight, state["b.weight"])
    assert fresh.a.weight is fresh.b.weight
    with pytest.raises(CheckpointError, match=r"a\.bias and b\.bias differ"):
        loaded.fresh({**state, "a.bias": torch.zeros(3)})


# --- bare modules ---------------------------------------------------------------------------------


def test_a_bare_module_is_taken_as_it_is() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    loaded = LoadedModel.of(module)
    assert (loaded.spec, loaded.num_classes, loaded.checkpoint) == ("python:Sequential", None, None)
    assert loaded.module is module
    assert module.training
    fresh = loaded.fresh({n: t + 1 for n, t in module.state_dict().items()})
    assert not fresh.training
    assert torch.equal(fresh[1].bias, module[1].bias + 1)
    assert loaded.config == {"modeledit": {"model": {"spec": "python:Sequential", "args": {}}}}
    assert LoadedModel.of(module, num_classes=3, class_names="abc").class_names == ("a", "b", "c")
    with pytest.raises(ModelError, match="2 class names"):
        LoadedModel.of(module, num_classes=3, class_names="ab")
