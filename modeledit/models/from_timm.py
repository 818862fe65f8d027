"""timm's architectures, by name or by the config.json of a directory in timm's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import timm
from timm.data.config import resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from modeledit.errors import ModelError
from modeledit.models.preprocessing import Preprocessing
from modeledit.models.sources import Args, Source, unknown
from modeledit.models.weights import State

# Where other weights came from or how they are to be altered: not true of what we write.
_FOREIGN = (
    "url", "file", "state_dict", "source", "hf_hub_id", "hf_hub_filename", "custom_load", "tag",
    "architecture", "label_offset", "label_names", "label_descriptions", "notes", "paper_ids",
    "paper_name", "origin_url", "license", "test_input_size", "test_pool_size", "test_crop_pct",
    "min_input_size", "pool_size", "crop_mode",
)  # fmt: skip
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Timm(Source):
    """A timm model.

    stored: the pretrained_cfg of a directory; without it the one that timm has for the name.
    """

    scheme = "timm"
    refused = (
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
    )

    stored: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" in self.name or "/" in self.name:
            raise ModelError(
                f"{self.spec} is not a name: hubs are not contacted, so fetch the files "
                "and give their directory as --model"
            )
        if not timm.is_model(self.architecture):
            raise ModelError(unknown("timm", self.architecture, timm.list_models()))

    @property
    def architecture(self) -> str:
        """The name without the tag of its pretrained weights."""
        return self.name.partition(".")[0]

    def create(self, args: Args) -> Any:
        cfg = dict(self.stored) or None
        return timm.create_model(self.name, pretrained=False, pretrained_cfg=cfg, **args)

    def fitted(self, state: State) -> tuple[nn.Module, Args]:
        cfg = self.stored or self._registered()
        args = dict(self.args)
        head = state.get(f"{_first(cfg.get('classifier'))}.weight")
        if "num_classes" not in args and head is not None and head.dim():
            args["num_classes"] = head.shape[0]
        module = self.build(args)
        stem = _first(cfg.get("first_conv"))
        own, given = module.state_dict().get(f"{stem}.weight"), state.get(f"{stem}.weight")
        if "in_chans" in args or own is None or given is None or own.dim() != given.dim():
            return module, args
        # Some stems fold space into channels: only where they are the picture's are they inferred.
        usual = own.shape[1] == _channels(module, args)
        if usual and own.shape[0] == given.shape[0] and own.shape[1] != given.shape[1]:
            args["in_chans"] = given.shape[1]
            module = self.build(args)
        return module, args

    def _registered(self) -> Mapping[str, Any]:
        found = get_pretrained_cfg(self.name, allow_unregistered=True)
        return asdict(found) if found is not None else {}

    def preprocessing(self, module: nn.Module, args: Args) -> Preprocessing:
        found = resolve_data_config({}, _cfg(module))  # type: ignore[no-untyped-call]
        size = _pair(args.get("img_size") or tuple(found["input_size"][1:]))
        wanted = found["interpolation"]
        plain = Preprocessing(
            size,
            tuple(found["mean"]),
            tuple(found["std"]),
            float(found["crop_pct"]),
            wanted if wanted in _INTERPOLATIONS else "bilinear",
        )
        return plain.for_channels(_channels(module, args))

    def config(
        self,
        module: nn.Module,
        args: Args,
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None,
    ) -> Mapping[str, Any]:
        """timm's own layout, so that `timm.create_model("local-dir:...")` builds and loads it."""
        count = int(getattr(module, "num_classes", 0))
        cfg = {k: v for k, v in _cfg(module).items() if v is not None and k not in _FOREIGN}
        cfg |= {
            "num_classes": count,
            "input_size": [preprocessing.channels, *preprocessing.size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "crop_pct": preprocessing.crop_pct,
            "interpolation": preprocessing.interpolation,
        }
        config: dict[str, Any] = {
            "architecture": self.architecture,
            "num_classes": count,
            "model_args": {k: v for k, v in args.items() if k != "num_classes"},
            "pretrained_cfg": cfg,
        }
        if isinstance(features := getattr(module, "num_features", None), int):
            config["num_features"] = features
        if class_names is not None:
            config["label_names"] = list(class_names)
        # Through text, since timm's own values hold tuples and the caller compares with a file.
        plain: Mapping[str, Any] = json.loads(json.dumps(config))
        return plain


def from_config(found: Mapping[str, Any], args: Args) -> tuple[Timm, tuple[str, ...] | None]:
    """The source and the class names that a config.json in timm's layout describes."""
    nested = found.get("pretrained_cfg")
    cfg = dict(nested if isinstance(nested, Mapping) else found)  # an older layout is flat
    known = {f.name for f in fields(PretrainedCfg)} - set(_FOREIGN[:6])
    stored = {key: value for key, value in cfg.items() if key in known}
    given = dict(found.get("model_args") or {}) | dict(args)
    if count := found.get("num_classes", cfg.get("num_classes")):
        stored["num_classes"] = count
        given.setdefault("num_classes", count)
    stored["architecture"] = found["architecture"]
    labels = found.get("label_names", cfg.get("label_names"))
    names = tuple(map(str, labels)) if isinstance(labels, list) else None
    return Timm(str(found["architecture"]), given, stored), names


def _cfg(module: nn.Module) -> dict[str, Any]:
    cfg = getattr(module, "pretrained_cfg", None) or {}
    return dict(cfg)


def _channels(module: nn.Module, args: Args) -> int:
    return int(args.get("in_chans") or _cfg(module).get("input_size", (3,))[0])


def _first(names: str | Sequence[str] | None) -> str:
    """Of the module names that timm's config gives, the first; it has several for some models."""
    if names is None:
        return ""
    return names if isinstance(names, str) else next(iter(names), "")


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
