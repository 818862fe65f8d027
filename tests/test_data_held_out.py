"""Training images held out from scoring: which, where they go, and what is said of them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import png, tensor, write
from grouped_cases import MODEL, manifest
from modeledit.cli.main import main
from torch.utils.data import TensorDataset

from modeledit.data import Data, Split, load_data
from modeledit.errors import DataError
from modeledit.runtime import Runtime


def pictured(first: float, labels: list[int]) -> TensorDataset:
    """Images of one value each, from `first` upwards."""
    values = first + torch.arange(len(labels), dtype=torch.float32)
    images = values[:, None, None, None].expand(-1, 3, 2, 2)
    return TensorDataset(images, torch.tensor(labels))


def values(split: Split) -> list[float]:
    return [v for batch in split.batches(Runtime()) for v in batch.images[:, 0, 0, 0].tolist()]


@pytest.fixture
def data() -> Data:
    """Ten training images, 0 to 9, of labels 0 and 1 in turn and of groups a (8) and b (2)."""
    made = Data.of(*(pictured(start, [0, 1] * 5) for start in (0.0, 10.0, 20.0)))
    groups = np.array(["a"] * 8 + ["b"] * 2)
    regrouped = {name: getattr(made, name).regrouped(groups) for name in ("train", "validation")}
    return replace(made, **regrouped)


def test_a_share_moves_to_validation(data):
    held = data.held_out(0.4)
    kept, searched = values(held.train), values(held.validation)
    assert (len(kept), len(searched)) == (6, 14)
    assert searched[:10] == [10.0 + k for k in range(10)]
    assert sorted(kept + searched[10:]) == [float(k) for k in range(10)]
    assert kept == sorted(kept)
    assert values(held.test) == values(data.test)
    # Labels and groups went with their images: odd ones are of label 1, 8 and 9 of group b.
    for split in (held.train, held.validation):
        shown = np.array(values(split))
        assert (split.labels == shown % 2).all()
        assert ((split.groups == "b") == (shown % 10 >= 8)).all()


def test_it_is_stratified_by_label_and_group(data):
    held = data.held_out(0.5)
    counts = [
        int(((held.train.labels == label) & (held.train.groups == group)).sum())
        for group in ("a", "b")
        for label in (0, 1)
    ]
    # Of four, four, one and one: nobody's only image is taken.
    assert sorted(counts[:2]) == [1, 2]
    assert counts[2:] == [1, 1]


def test_seeds_differ_and_repeat(data):
    first = values(data.held_out(0.4, 1).train)
    assert first == values(data.held_out(0.4, 1).train)
    assert any(first != values(data.held_out(0.4, seed).train) for seed in range(2, 6))


def test_what_is_said(data):
    held = data.held_out(0.4, 3)
    assert held.notes == (
        "4 of 10 training images were held out from scoring, for the search beside 10 validation "
        "images (seed 3); if the model was trained on them, losses look smaller there",
    )
    assert held.digest() != data.digest()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan"), 0.01, 0.99])
def test_shares_that_leave_nothing(data, share):
    with pytest.raises(DataError, match=r"of 10 train images leaves one side empty"):
        data.held_out(share)


def test_without_groups_on_both_sides_there_are_none(data):
    plain = Split.of(pictured(0.0, [0, 1]))
    assert plain.joined(data.train).groups is None
    assert values(plain.joined(data.train)) == [0.0, 1.0, *map(float, range(10))]


def test_the_fingerprint_of_a_moved_image_says_where_it_came_from(data):
    moved = [json.loads(line) for line in list(data.held_out(0.4).validation.fingerprint())[10:]]
    known = {name: rest for _, name, *rest in map(json.loads, data.train.fingerprint())}
    assert {split for split, *_ in moved} == {"validation"}
    for _, name, *rest in moved:
        assert rest == known[name.removeprefix("train")]


def test_files_are_counted_where_they_cannot_be_read(tmp_path):
    rows = ["path,label,split,group"]
    files = {}
    for split in ("train", "validation", "test"):
        for number in range(8):
            name = f"{split}-{number}.png"
            files[name] = png(30 * number)
            rows.append(f"{name},{number % 2},{split},{'ab'[number // 4]}")
    files["train-0.png"] = files["validation-0.png"] = b"no picture"
    files["faces.csv"] = "\n".join(rows).encode()
    root = write(tmp_path / "faces", files)
    found = load_data(f"csv:{root / 'faces.csv'}", tensor, max_unreadable=0.5)
    held = found.held_out(0.5, 1)
    assert len(pickle.loads(pickle.dumps(held.validation))) == 12
    read = len(values(held.train)) + len(values(held.validation))
    assert read == 14
    assert held.validation.unreadable[-1:] == ("validation-0.png",)
    notes = " ".join(held.unreadable_notes())
    assert "validation-0.png" in notes
    assert "train-0.png" in notes


def test_more_than_allowed_cannot_be_read():
    class Broken(TensorDataset):
        def __getitem__(self, index):
            if index % 2:
                raise OSError("gone")
            return super().__getitem__(index)

    labels = torch.zeros(4, dtype=torch.int64)
    sets = [Broken(torch.zeros(4, 3, 2, 2), labels) for _ in range(2)]
    for one in sets:
        one.targets = labels
    split = Split.of(sets[0], "one").joined(Split.of(sets[1], "two"))
    with pytest.raises(
        DataError, match=r"4 of 8 images of the one split cannot be read .*one\[1\].*two\[3\]"
    ):
        list(split.batches(Runtime()))


def test_the_search_of_a_verb_has_them(tmp_path, monkeypatch, capsys):
    place = manifest(tmp_path / "digits", limit=100)
    monkeypatch.chdir(tmp_path)
    args = ["repair", *MODEL, "--data", f"csv:{place}", "--positive", "7", "--scorer-arg"]
    args += ["rounds=2", "--force", "--hold-out", "0.4", "--json", "--seed", "2"]
    main(args)
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report["data"]["splits"] == {"train": 60, "validation": 140, "test": 100}
    assert {trial["images"] for trial in report["search"]} == {140}
    said = [note for note in report["notes"] if "held out from scoring" in note]
    assert [note.partition(" training")[0] for note in said] == ["40 of 100"]
