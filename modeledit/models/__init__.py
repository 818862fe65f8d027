"""Networks and their preprocessing, by name: `load_model` is the way in. Nothing is downloaded."""

from modeledit.models.loaded import LoadedModel
from modeledit.models.loading import load_model
from modeledit.models.preprocessing import Preprocessing

__all__ = ["LoadedModel", "Preprocessing", "load_model"]
