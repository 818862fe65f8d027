"""`modeledit init`."""

from __future__ import annotations

from modeledit.errors import ModelEditError

from .command import verb
from .errors import PASSED
from .files import record
from .options_run import force_option
from .settings import FILE
from .show import emit

TEMPLATE = """\
# Defaults for `modeledit` in this folder; flags win.
# Keys are long options, see `modeledit VERB -h`.

# The network: timm:NAME, torchvision:NAME, module:PKG.MOD:FACTORY, or a checkpoint folder.
# model = "timm:resnet18"
# checkpoint = "model.safetensors"
# model-arg = { num_classes = 10 }   # its constructor's arguments
# class-names = ["cat", "dog"]       # in the order of the model's outputs

# The images: folder:DIR, csv:FILE, npz:FILE, idx:DIR or torchvision:NAME; a .zip works too.
# data = "folder:images"
# limit = 1000                       # images per split

# How an edit is judged, on the test split.
max-forget = 0.01                    # recall left of a forgotten class
max-retain-drop = 0.01               # accuracy lost on all other classes

# Where and how to run.
seed = 0
# device = "cuda"
# batch-size = 128

# A table holds for one verb alone.
[unlearn]
# class = [3]
# scorer = "peps"
# scorer-arg = { measure = "stability", selective = false }
# strength = "auto"                  # or a fraction (0.003) or a count (30)
"""


@verb("init", "modeledit init")
@force_option
def command(force: bool) -> int:
    """Write a commented modeledit.toml, the defaults for this folder."""
    if FILE.exists() and not force:
        raise ModelEditError(f"{FILE} exists: edit it, or replace it with --force")
    FILE.write_text(TEMPLATE, encoding="utf-8")
    record(FILE)
    emit(f"wrote {FILE}: name your model and data in it, then run `modeledit unlearn --class 3`\n")
    return PASSED
