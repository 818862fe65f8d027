"""What tests of the whole pipeline share."""

from __future__ import annotations

import torch

import modeledit

# A seventh of the images is enough for everything but the gates.
FEW = 150


def assert_same_state(found, want):
    assert list(found) == list(want)
    assert all(torch.equal(found[name], want[name]) for name in want)


def random_edit(few, **options):
    given = {"scorer": "random", "strength": 1, "baseline": few, **options}
    return modeledit.unlearn(few.loaded, few.data, 3, **given)
