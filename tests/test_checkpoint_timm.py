"""An edited checkpoint is a drop-in: timm and load_model build it from its directory, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from modeledit.checkpoint import Staging, identity, read_state, revert, verify, write_state
from modeledit.models import load_model
from modeledit.surgery import apply
from modeledit.types import Change, EditPlan

NAME = "test_efficientnet"
OPTIONS = [{"in_chans": 1, "num_classes": 10}, {"num_classes": 7}]


def weights(options: dict[str, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = timm.create_model(NAME, **options).state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = torch.rand(tensor.shape, generator=generator) / 10 + 0.01
    return state


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_timm_and_load_model_load_the_directory(tmp_path: Path, options: dict[str, int]) -> None:
    base = tmp_path / "base.safetensors"
    state = weights(options)
    write_state(base, state, {"format": "pt"})
    loaded = load_model(f"timm:{NAME}", base, args=options)
    stem = "conv_stem.weight"
    edit = EditPlan((Change(stem, tuple(state[stem].shape), torch.tensor([0, 5]), torch.zeros(2)),))
    with Staging(tmp_path / "out") as stage:
        stage.write_model(loaded, edit, recipe={"seed": 0})
        out = stage.commit()
    images = torch.rand(2, options.get("in_chans", 3), 32, 32)
    found = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    again = load_model(str(out))
    with torch.no_grad():
        expected = apply(loaded.module, edit)(images)
        assert torch.equal(found(images), expected)
        assert torch.equal(again.module(images), expected)
    assert identity(found.state_dict()) == identity(read_state(out / "model.safetensors"))
    assert again.num_classes == options.get("num_classes", 1000)
    assert all(check.passed for check in verify(out))
    assert revert(out, None, tmp_path / "back.safetensors").path.read_bytes() == base.read_bytes()


def test_the_edit_of_an_edited_directory_keeps_its_configuration(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    write_state(base, weights(OPTIONS[0]))
    place: Path | str = base
    for number in (1, 2):
        spec = f"timm:{NAME}" if number == 1 else str(place)
        loaded = load_model(spec, base if number == 1 else None, args=OPTIONS[0])
        change = Change("conv_stem.weight", (24, 1, 3, 3), torch.tensor([number]), torch.zeros(1))
        with Staging(tmp_path / str(number)) as stage:
            stage.write_model(loaded, EditPlan((change,)), recipe={})
            place = stage.commit()
    first, second = (json.loads((tmp_path / n / "config.json").read_text()) for n in "12")
    assert first == second
    assert first["model_args"]["in_chans"] == 1
    assert all(check.passed for check in verify(tmp_path / "2"))
    back = revert(tmp_path / "2", None, tmp_path / "back.safetensors")
    assert back.path.read_bytes() == (tmp_path / "1" / "model.safetensors").read_bytes()
