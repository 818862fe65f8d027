"""Labelled, grouped, split examples from folders, manifests, arrays and torch data sets."""

from modeledit.data.dataset import Data, load_data
from modeledit.data.loading import Batch
from modeledit.data.splits import Split

__all__ = ["Batch", "Data", "Split", "load_data"]
