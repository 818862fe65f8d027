"""All that the command line must refuse: classes, checkpoints, data, options."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from data_files import class_folders, write
from demo_cases import UNLEARN, own_model, refused
from safetensors.torch import load_file, save_file

from modeledit import demo


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("12", ["class 12 is out of range", "0 to 9"]),
        ("-1", ["class -1 is out of range"]),
        ("cat", ["class 'cat' is not known", "use a number"]),
    ],
)
def test_unknown_classes(name: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(["unlearn", "--class", name, "--demo"], capsys, *parts)
    refused(["score", "--target", f"class:{name}", "--demo"], capsys, *parts)
    refused(["evaluate", "--forget", name, "--demo"], capsys, *parts)


def test_an_empty_forget_set(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["unlearn", "--demo"], capsys, "--class")
    write(Path("data"), class_folders(["train", "validation", "test"], "abcdefghij", 2))
    shutil.rmtree("data/test/d")
    args = [*own_model(demo.WEIGHTS), "--data", "data"]
    refused(["unlearn", "--class", "d", *args], capsys, "the test split has no image of class 'd'")


def test_all_classes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    every = [part for c in range(10) for part in ("--class", str(c))]
    refused(["unlearn", *every, "--demo"], capsys, "no image of a class to retain")


def test_another_number_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("data"), class_folders(["train", "validation", "test"], "abc", 2))
    model = own_model(demo.WEIGHTS)
    refused([*UNLEARN, *model, "--data", "data"], capsys, "the data has 3 classes", "10 outputs")
    names = ["--class-names", "a,b,c"]
    refused([*UNLEARN, *model, *names, "--data", "data"], capsys, "3 class names", "10 outputs")
    state = dict(load_file(demo.WEIGHTS))
    state |= {name: state[name][:4].clone() for name in ("head.fc.weight", "head.fc.bias")}
    save_file(state, "four.safetensors")
    refused([*UNLEARN, *own_model("four.safetensors"), "--demo"], capsys, "4 outputs", "10 classes")


def checkpoint(kind: str) -> Path:
    state, path = dict(load_file(demo.WEIGHTS)), Path(f"{kind}.safetensors")
    name = next(n for n, t in state.items() if t.dim() == 4)
    if kind == "missing":
        del state[name]
    elif kind == "extra":
        state["more.weight"] = torch.ones(3)
    elif kind == "shape":
        state[name] = torch.ones(5, 1, 3, 3)
    elif kind == "nan":
        state[name] = state[name].clone()
        state[name].view(-1)[7] = float("nan")
    if kind == "pickle":
        path = Path("pickle.pt")
        torch.save(state, path)
    else:
        save_file(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "head":
        path.write_bytes(path.read_bytes()[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello, world, this is no checkpoint")
    return path


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("missing", "missing"),
        ("extra", "more.weight"),
        ("shape", "of another shape"),
        ("nan", "NaN"),
        ("truncated", "truncated"),
        ("head", "head.safetensors"),
        ("empty", "empty.safetensors"),
        ("text", "text.safetensors"),
        ("pickle", "--allow-pickle"),
    ],
)
def test_unsound_checkpoints(kind: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(kind)
    for verb in (UNLEARN, ["evaluate"], ["score", "--target", "class:3"]):
        refused([*verb, *own_model(path), "--demo"], capsys, path.name, part)


def test_a_harmful_pickle_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    refused([*UNLEARN, *own_model("bad.pt"), "--demo", "--allow-pickle"], capsys, "bad.pt")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ("folder:nowhere", "nowhere"),
        ("nowhere", "'nowhere'"),
        ("csv:nowhere.csv", "nowhere.csv"),
        ("npz:nowhere.npz", "nowhere.npz"),
        ("idx:nowhere", "nowhere"),
        ("torchvision:NoSuchData", "NoSuchData"),
        ("folder:empty", "empty"),
    ],
)
def test_data_that_is_not_there(data: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    refused([*UNLEARN, *own_model(demo.WEIGHTS), "--data", data], capsys, part)


@pytest.mark.parametrize("count", [1, 20])
def test_unreadable_images(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("data"), class_folders(["train", "validation", "test"], "abcdefghij", 2))
    images = sorted(Path("data/train").rglob("*.png"))
    for image in images[:count]:
        image.write_bytes(image.read_bytes()[:30])
    args = [*own_model(demo.WEIGHTS), "--data", "folder:data"]
    refused(["unlearn", "--class", "d", *args], capsys, str(Path(*images[0].parts[-2:])))


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--bogus"], ["no option --bogus"]),
        (["--strength", "-0.1"], ["'-0.1' is negative"]),
        (["--strength", "-5"], ["'-5' is negative"]),
        (["--scorer-arg", "bogus=1"], ["no option 'bogus'"]),
        (["--scorer-arg", "share=x"], ["share='x'"]),
        (["--scorer-arg", "cache-mb=0"], ["cache_mb=0"]),
        (["--editor-arg", "bogus=1"], ["no option 'bogus'"]),
        (["--editor", "mean-ablate", "--scorer", "random"], ["mean-ablate edits by filter"]),
        (["--granularity", "filter"], ["stepwise-peps scores by weight"]),
    ],
)
def test_options(more: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused([*UNLEARN, "--demo", *more], capsys, *parts)
