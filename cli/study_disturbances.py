"""`modeledit study disturbances`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modeledit.errors import ModelEditError

from .command import verb
from .options_disturbances import Disturbing, Looking, disturbing_options, looking_options
from .show import percent
from .study_job import Study, study_options

if TYPE_CHECKING:
    from modeledit.data import Split
    from modeledit.models import LoadedModel
    from modeledit.runtime import Runtime
    from modeledit.study.disturbances import Disturbances
    from modeledit.study.variants import Pictures, Sources


@verb("disturbances", "modeledit study disturbances --demo")
@study_options("disturbances", disturbing_options, looking_options)
def command(study: Study, disturbing: Disturbing, looking: Looking) -> int:
    """Accuracy, layer influence and regions of disturbed images.

    With clusters, layer profiles and the most influential training images."""
    _check(disturbing)
    ready = study.ready(disturbing.masks, disturbing.style, disturbing.features_checkpoint)
    network, images, runtime = ready.network, ready.images, ready.runtime

    from modeledit.study import disturbances
    from modeledit.study.disturbance_figures import figures
    from modeledit.study.disturbance_tables import tables
    from modeledit.study.transfer import Recipe
    from modeledit.study.variants import Pictures, Scale, disturb

    scale = Scale.of(network.preprocessing, images.test.example().shape[1])
    chosen = images.test.sample(disturbing.images, study.run.seed)
    pictures = Pictures.of(chosen, scale, runtime)
    training = images.train.sample(looking.training_images, study.run.seed)
    shown = Pictures.of(training, scale, runtime)
    sources = _sources(disturbing, network, chosen, pictures, shown, runtime)
    steps = disturbing.transfer_steps
    recipes = {
        "style": (Recipe(0.5, steps),),
        "texture": tuple(Recipe(each, steps) for each in disturbing.texture),
    }
    variants = disturb(pictures, disturbing.disturb, sources, recipes, runtime)
    settings = disturbances.Settings(
        profile=looking.profile,
        distance=looking.distance,
        solver=looking.solver,
        layers=looking.layers or "matrices",
        shown=looking.show,
        top=min(4, len(shown.labels)),
        side=looking.side,
        evaluations=looking.evaluations,
    )
    found = disturbances.study(
        network.module, variants, pictures.labels, shown, scale, images.class_names, settings,
        runtime,
    )  # fmt: skip
    header = {
        **found.header,
        "masks": "given" if disturbing.masks else "estimated",
        "style": "given" if disturbing.style else "brush strokes",
        "features": disturbing.features or network.spec,
        "transfer_steps": steps,
        "clusters": found.clusters.split(min(3, len(found.names))),
    }
    return study.finish(ready, header, tables(found), figures(found), "accuracy", _summary(found))


def _check(disturbing: Disturbing) -> None:
    """Refuse files that are not there, and options without a use, before torch is imported."""
    for flag, path in (
        ("--masks", disturbing.masks),
        ("--style", disturbing.style),
        ("--features-checkpoint", disturbing.features_checkpoint),
    ):
        if path is not None and not path.exists():
            raise ModelEditError(f"{flag} {path} does not exist: name what is there")
    for flag, given, kind in (
        ("--masks", disturbing.masks, "white-background"),
        ("--style", disturbing.style, "style"),
    ):
        if given is not None and kind not in disturbing.disturb:
            raise ModelEditError(f"{flag} is for {kind}, which --disturb leaves out: drop one")
    if disturbing.features_checkpoint is not None and disturbing.features is None:
        raise ModelEditError("--features-checkpoint goes with --features: name the network too")


def _sources(
    disturbing: Disturbing,
    network: LoadedModel,
    chosen: Split,
    pictures: Pictures,
    training: Pictures,
    runtime: Runtime,
) -> Sources:
    from PIL import Image

    from modeledit.models import load_model
    from modeledit.study.disturbing import brushwork, to_pixels
    from modeledit.study.foreground import names, read_masks
    from modeledit.study.transfer import Features
    from modeledit.study.variants import Sources

    channels, height, width = pictures.pixels.shape[1:]
    masks = None
    if disturbing.masks is not None:
        masks = read_masks(disturbing.masks, names(chosen), network.preprocessing)
    if disturbing.style is not None:
        with Image.open(disturbing.style) as image:
            style = to_pixels(image, (height, width), channels)
    else:
        style = brushwork((height, width), channels, runtime.seed)
    source, size = network, (height, width)
    if disturbing.features is not None:
        source = load_model(disturbing.features, disturbing.features_checkpoint)
        size = (max(height, 96), max(width, 96))  # such networks are made for larger pictures
    features = Features.of(source, size, runtime)
    return Sources(masks, style, training, features)


def _summary(found: Disturbances) -> list[Any]:
    """A line per variant, and the clusters."""
    from .show_measurement import table

    made = table("variant", "accuracy", "takes texture", "nearest", "correlation")
    clusters = found.clusters
    for place, (name, answers) in enumerate(zip(found.names, found.answers, strict=True)):
        taken = None if answers.textured is None else answers.textured / answers.n
        nearest = clusters.nearest(name)
        correlation = clusters.correlation[place, found.names.index(nearest)]
        made.add_row(
            name, percent(answers.hits / answers.n), percent(taken), nearest, f"{correlation:.3f}"
        )
    count = len(found.labels)
    lines = [
        f"{k} clusters: " + " | ".join(", ".join(group) for group in clusters.split(k))
        for k in range(2, min(4, len(found.names)))
    ]
    heading = f"{count} test images, {len(found.training.labels)} training images"
    return [heading, "", made, "", *lines]
