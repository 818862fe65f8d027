"""Checkpoints in and out: canonical, atomic, traceable, and reversible byte for byte."""

from __future__ import annotations

from modeledit.checkpoint.base import Base, base_of, read_base
from modeledit.checkpoint.checks import Check, verify
from modeledit.checkpoint.directory import Staging
from modeledit.checkpoint.inspection import Difference, Inspection, diff, inspect
from modeledit.checkpoint.patch import Patch, load_patch, load_scores, save_patch, save_scores
from modeledit.checkpoint.store import Reader, read_state, write_state
from modeledit.checkpoint.tensors import identity
from modeledit.checkpoint.undo import Undo, load_undo, save_undo
from modeledit.checkpoint.verbs import Reverted, apply_edit, revert

__all__ = [
    "Base",
    "Check",
    "Difference",
    "Inspection",
    "Patch",
    "Reader",
    "Reverted",
    "Staging",
    "Undo",
    "apply_edit",
    "base_of",
    "diff",
    "identity",
    "inspect",
    "load_patch",
    "load_scores",
    "load_undo",
    "read_base",
    "read_state",
    "revert",
    "save_patch",
    "save_scores",
    "save_undo",
    "verify",
    "write_state",
]
