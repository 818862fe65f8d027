"""`modeledit merge-scores`."""

from __future__ import annotations

from pathlib import Path

import click

from .command import option, verb
from .errors import PASSED
from .files import Output, check, record, use
from .options import FILE
from .options_run import json_option
from .params import Numbers
from .show import clean, draw, emit, emit_json


@verb("merge-scores", "modeledit merge-scores a.safetensors b.safetensors -o all.safetensors")
@click.argument("files", type=FILE, nargs=-1, metavar="FILE...")
@option(
    "--weights",
    type=Numbers(),
    metavar="N,N,...",
    group="Scoring",
    help="Images that decide the metric, by file; default: those scored.",
)
@option(
    "-o",
    "--scores",
    "output",
    type=FILE,
    metavar="FILE",
    required=True,
    group="Output",
    help="The merged scores, for `edit`, `repair`, `harden` or `picture`.",
)
@json_option
@option("--force", is_flag=True, group="Output", help="Replace what exists.")
def command(
    files: tuple[Path, ...],
    weights: tuple[float, ...] | None,
    output: Path,
    as_json: bool,
    force: bool,
) -> int:
    """Merge scores of one model for one behaviour that several owners made of their own images.

    Images stay where they are; the result is that of one run on all of them, up to sampling error.
    All must have scored the same file with the same pinned constants.
    """
    check([Output("-o", output)], files, force=force)

    from modeledit.checkpoint import load_scores, save_scores
    from modeledit.merging import Part, merge

    parts = [Part(str(path), load_scores(path)) for path in files]
    merged = merge(parts, weights)
    save_scores(output, merged)
    record(output)
    if as_json:
        emit_json(dict(merged.header))
        return PASSED
    from .show_measurement import table

    made = table("file", "images", "weight")
    for part, of_part in zip(parts, merged.header["parts"], strict=True):
        made.add_row(clean(part.name), f"{sum(part.images.values()):,}", f"{of_part['weight']:.4g}")
    draw(made, "", clean(merged))
    emit(f"\nwrote  {output}\n{use(merged, output)}")
    return PASSED
