"""Fits, effects, tables and files of the studies, against scipy, by hand and from disk."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from modeledit.errors import CheckpointError, ModelEditError
from modeledit.study import drawing
from modeledit.study.effects import effect, holm
from modeledit.study.fits import fit
from modeledit.study.output import SUMMARY, Table, check, save

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("family", "support", "values"),
    [
        ("t", "real", 1e-9 * stats.t.rvs(2.0, size=3000, random_state=1)),
        ("gamma", "positive", 1e-7 * stats.gamma.rvs(0.6, size=3000, random_state=2)),
        ("beta", "sides", 2 * stats.beta.rvs(0.5, 0.7, size=3000, random_state=3) - 1),
        ("normal", "real", 3 + 0.1 * stats.norm.rvs(size=3000, random_state=4)),
    ],
)
def test_a_sample_of_a_family_is_recognised(family: str, support: str, values: np.ndarray) -> None:
    found = fit(values, support, seed=0)  # type: ignore[arg-type]
    close = [each.family for each in found if each.distance < found[0].distance + 0.005]
    assert family in close  # a t with many degrees of freedom is a normal distribution
    best = next(each for each in found if each.family == family)
    assert best.p > 0.01
    assert best.tested == 1500
    wide = np.array([values.min() - 100 * np.ptp(values), *np.sort(values), values.max() * 100 + 1])
    assert (best.density(wide) * np.diff(wide)).sum() == pytest.approx(1, abs=0.01)


def test_the_wrong_family_is_far() -> None:
    values = stats.gamma.rvs(0.4, size=2000, random_state=6)
    by_name = {each.family: each for each in fit(values, "positive", seed=0)}
    assert by_name["normal"].distance > 5 * by_name["gamma"].distance
    assert by_name["normal"].p < 1e-6


@pytest.mark.parametrize("values", [np.arange(19.0), np.ones(100)])
def test_too_little_to_fit(values: np.ndarray) -> None:
    assert fit(values, "real", seed=0) == ()


def test_cliffs_delta_counts_pairs() -> None:
    a, b = RNG.integers(0, 6, 17).astype(float), RNG.integers(1, 8, 23).astype(float)
    pairs = list(itertools.product(a, b))
    by_hand = sum(int(x > y) - int(x < y) for x, y in pairs) / len(pairs)
    assert effect(a, b).delta == pytest.approx(by_hand)
    assert effect(b, a).delta == pytest.approx(-by_hand)
    assert effect(np.array([3.0, 4.0]), np.array([1.0, 2.0])).delta == 1
    assert effect(np.zeros(5), np.zeros(5)).p == 1


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_table_as_csv_and_json() -> None:
    table = Table(("name", "x"), (("a,b", 0.1), ("c", None), ("d", float("nan"))))
    assert table.csv() == 'name,x\n"a,b",0.1\nc,\nd,nan\n'
    assert table.records()[2] == {"name": "d", "x": None}
    assert table.column("x")[0] == 0.1
    with pytest.raises(ModelEditError, match="1 cells under 2 columns"):
        Table(("a", "b"), ((1,),))


def _saved(out: Path, **options: bool) -> list[Path]:
    with drawing.style():
        figure = drawing.sheet(3, 2, "title")
        drawing.grid(figure, 1, 1)[0][0].plot([1, 2, 4])
    tables = {"numbers": Table(("x",), ((1.5,),))}
    return save(out, {"study": "test"}, tables, {"curve": figure}, **options)


def test_a_study_is_written_whole_and_the_same_twice(tmp_path: Path) -> None:
    first, second = _saved(tmp_path / "a"), _saved(tmp_path / "b" / "c")
    assert [p.name for p in first] == [SUMMARY, "numbers.csv", "curve.png", "curve.svg"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert json.loads(first[0].read_text())["tables"]["numbers"] == [{"x": 1.5}]
    assert first[2].read_bytes()[:4] == b"\x89PNG"


def test_what_exists_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _saved(out)
    with pytest.raises(CheckpointError, match="--force"):
        _saved(out)
    assert len(_saved(out, force=True)) == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds other files than a study"):
        check(tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda _name: None)
    with pytest.raises(ModelEditError, match=r"pip install 'modeledit\[study\]'"):
        drawing.require()


def test_the_callers_style_stays() -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31.0}):
        with drawing.style():
            assert mpl.rcParams["font.size"] == drawing.STYLE["font.size"]
        assert mpl.rcParams["font.size"] == 31.0


def test_long_names_keep_both_ends() -> None:
    assert drawing.shortened("a" * 10 + "end", 8) == "aa…aaend"
    assert drawing.shortened("short", 8) == "short"
