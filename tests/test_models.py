"""Networks by name: classes, channels and preprocessing from what there is to read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from zoo import photo

from modeledit.errors import CheckpointError, ModelEditError
from modeledit.models import LoadedModel, Preprocessing, load_model

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


def test_classes_and_channels_come_from_the_checkpoint(resnet_file: Path) -> None:
    rng = torch.get_rng_state()
    loaded = load_model("timm:test_resnet", resnet_file)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (loaded.num_classes, dict(loaded.args)) == (5, {"num_classes": 5, "in_chans": 1})
    # timm's own numbers for this name; its three means averaged to one
    assert loaded.preprocessing == Preprocessing((160, 160), (0.5,), (0.5,), 0.95, "bilinear")
    assert (loaded.spec, loaded.checkpoint) == ("timm:test_resnet", resnet_file)
    assert not any(module.training for module in loaded.module.modules())
    expected = timm.create_model("test_resnet", num_classes=5, in_chans=1).eval()
    expected.load_state_dict(loaded.base_state())
    batch = torch.randn(2, 1, 32, 32)
    assert torch.equal(loaded.module(batch), expected(batch))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc.weight"),
        ("squeezenet1_1", "classifier.1.weight"),
        ("regnet_x_400mf", "fc.weight"),  # cannot be built without real memory
    ],
)
def test_torchvision_classes_come_from_the_shapes(tmp_path: Path, name: str, head: str) -> None:
    state = torchvision.models.get_model(name, num_classes=4).state_dict()
    save_file(state, tmp_path / "m.safetensors")
    loaded = load_model(f"torchvision:{name}", tmp_path / "m.safetensors")
    assert loaded.num_classes == 4
    assert torch.equal(loaded.module.state_dict()[head], state[head])
    assert loaded.preprocessing == Preprocessing(
        (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bilinear"
    )


@pytest.mark.parametrize("name", ["efficientnet_v2_s", "regnet_y_400mf", "vit_b_16", "swin_t"])
def test_torchvision_preprocessing_is_its_own(name: str) -> None:
    from modeledit.models.sources import Torchvision

    own = Torchvision(name, {}).preprocessing(nn.Identity(), {})
    recipe = next(iter(torchvision.models.get_model_weights(name))).transforms()
    picture = photo(300, 260)
    ours, theirs = own(picture), recipe(picture)
    # Theirs resizes and normalises in another order of operations: within a pixel value's rounding.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_directory_in_timms_layout(tmp_path: Path, resnet_file: Path) -> None:
    """Both ways: what `config` holds builds the same model here and in timm itself."""
    first = load_model("timm:test_resnet", resnet_file, input_size=32, class_names=list("abcde"))
    folder = written(tmp_path / "out", first)
    again = load_model(folder)
    assert again.config == first.config
    assert again.preprocessing == first.preprocessing == Preprocessing((32, 32), (0.5,), (0.5,))
    assert (again.num_classes, again.class_names) == (5, tuple("abcde"))
    assert again.checkpoint == folder / "model.safetensors"
    stock = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert all(torch.equal(t, stock.state_dict()[n]) for n, t in first.module.state_dict().items())
    assert stock.pretrained_cfg["input_size"] == (1, 32, 32)
    assert stock.pretrained_cfg["label_names"] == list("abcde")
    assert not any(key in json.dumps(first.config) for key in ("http", "hf_hub", "timm/"))


def test_a_flat_configuration_of_old(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_resnet", "num_classes": 3, "input_size": [3, 48, 48],
        "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.9,
        "interpolation": "bicubic", "classifier": "fc", "labels": ["x", "y", "z"],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(tmp_path)
    assert loaded.preprocessing == Preprocessing(
        (48, 48), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9, "bicubic"
    )
    assert loaded.num_classes == 3


def test_a_model_for_a_fixed_size_says_so(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    loaded = load_model("timm:test_vit", tmp_path / "m.safetensors", args={"img_size": 32})
    assert loaded.preprocessing.size == (32, 32)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_model("timm:test_vit", tmp_path / "m.safetensors", input_size=32)


FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, classes=3):
        super().__init__()
        self.body = nn.Conv2d(3, width, 3)
        self.fc = nn.Linear(width, classes)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))

def broken():
    raise RuntimeError("no\\nluck")

nothing = dict
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_net", raising=False)


NUMBERS: dict[str, Any] = {"mean": [0.4] * 3, "std": [0.2], "input_size": 8}


@pytest.mark.usefixtures("factory")
def test_a_factory_from_the_working_directory_and_back(tmp_path: Path) -> None:
    path = list(sys.path)
    loaded = load_model(
        "module:my_net:Net", args={"width": 6}, class_names=["a", "b", "c"], **NUMBERS
    )
    assert sys.path == path
    assert loaded.preprocessing == Preprocessing((8, 8), (0.4,) * 3, (0.2,) * 3)
    assert loaded.module.body.out_channels == 6
    again = load_model(written(tmp_path / "out", loaded))
    assert again.config == loaded.config
    assert (again.preprocessing, again.class_names) == (loaded.preprocessing, ("a", "b", "c"))
    batch = torch.randn(1, 3, 8, 8)
    assert torch.equal(again.module(batch), loaded.module(batch))
    assert dict(again.args) == {"width": 6}


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("module:my_net:Net", {}, "give --mean, --std, --input-size"),
        ("module:my_net:Net", {**NUMBERS, "std": None}, "give --std"),
        ("module:my_net:Nope", NUMBERS, "has no attribute 'Nope'"),
        ("module:my_net", NUMBERS, "module:package.module:function"),
        ("module:my_nets:Net", NUMBERS, "No module named 'my_nets'"),
        ("module:my_net:broken", NUMBERS, "cannot be built: no$"),
        ("module:my_net:nothing", NUMBERS, "gives a dict, not a torch.nn.Module"),
        ("module:my_net:Net", {**NUMBERS, "args": {"depth": 3}}, "unexpected keyword argument"),
        ("module:my_net:Net", {**NUMBERS, "input_size": 1}, "cannot run on an input of"),
        ("module:my_net:Net", {**NUMBERS, "std": [0.0]}, "std > 0"),
        ("module:my_net:Net", {**NUMBERS, "std": [0.1, 0.2]}, "std has 2 values"),
        ("module:my_net:Net", {**NUMBERS, "crop_pct": 1.5}, "crop-pct 1.5 is out of range"),
        (
            "module:my_net:Net",
            {**NUMBERS, "class_names": ["a"]},
            "1 class names for a model with 3",
        ),
        ("module:my_net:Net", {**NUMBERS, "class_names": list("aba")}, "'a' is given twice"),
        ("timm:test_resnett", {}, "did you mean test_resnet"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", {}, "hubs are not contacted"),
        ("hf-hub:timm/resnet18", {}, "hubs are not contacted"),
        ("timm:test_resnet", {}, "nothing is downloaded.*--checkpoint"),
        ("timm:test_resnet", {"args": {"pretrained": True}}, "pretrained is not allowed"),
        ("torchvision:resnet19", {}, "did you mean resnet"),
        ("torchvision:resnet18", {"args": {"weights": "DEFAULT"}}, "weights is not allowed"),
        ("torchvision:fcn_resnet50", {}, "no classifier called"),
        ("nowhere", {}, "neither a directory nor"),
        (".", {}, "has no config.json"),
    ],
)
def test_what_cannot_be_built(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelEditError, match=message) as caught:
        load_model(spec, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not readable JSON"), ("[]", "no JSON object"), ("{}", "names neither an architecture")],
)
def test_directories_that_say_nothing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelEditError, match=message):
        load_model(tmp_path)


def written(folder: Path, loaded: LoadedModel) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(loaded.config))
    save_file(loaded.module.state_dict(), folder / "model.safetensors")
    return folder
