"""Find the units of a network by running it once: filters, neurons, heads, and what pins them.

Nothing is traced symbolically: one example goes through with gradients on, and the autograd graph
tells who consumes what, whatever control flow, in-place activation or view lies between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from modeledit.errors import ModelError
from modeledit.fitting import tied_names
from modeledit.outputs import Kind, Point, point
from modeledit.surgery import See, evaluating, hooked

Pin = Literal["norm", "bias", "zero"]


@dataclass(frozen=True)
class Layer:
    """The output units of one convolution, linear layer or attention block.

    pin:    what can hold a unit at a constant: the BatchNorm `norm` that alone consumes it, the
            layer's own bias, or nothing, so that only 0 is possible.
    weight: state-dict names of the weight (more than one if tied); unit u owns its rows
            first + u*width up to first + (u+1)*width, exclusive.
    bias:   names of the bias that takes the value: the norm's, else the layer's own, else none.
    norm_weight: names of the norm's weight.
    calls:  how often one forward pass runs it; the channel of a shared module is one unit.
    """

    name: str
    kind: Kind
    units: int
    pin: Pin
    norm: str | None
    weight: tuple[str, ...]
    bias: tuple[str, ...] = ()
    norm_weight: tuple[str, ...] = ()
    width: int = 1
    first: int = 0
    calls: int = 1


@dataclass(frozen=True)
class Anatomy:
    """What of a network can be edited; the classifier is left out everywhere.

    layers:     in the order in which they first run; a layer that never ran, whose weight is
                computed (parametrised) or is also another module's is no layer here.
    parameters: names of all parameters, as `named_parameters` has them.
    weights:    those of them that are a convolution's or linear layer's matrix.
    """

    classifier: str
    layers: Mapping[str, Layer]
    parameters: tuple[str, ...]
    weights: tuple[str, ...]
    num_classes: int


def within(name: str, layers: Iterable[str]) -> bool:
    """Whether a module or parameter is one of `layers` or lies beneath one."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def limited(anatomy: Anatomy, layers: Iterable[str]) -> Anatomy:
    """Only what belongs to `layers`, names that stand for everything beneath them.

    A name that no editable parameter belongs to is a ModelError.
    """
    chosen = tuple(dict.fromkeys(layers))
    for layer in chosen:
        if not any(within(name, [layer]) for name in (*anatomy.parameters, *anatomy.layers)):
            few = ", ".join(list(anatomy.layers)[:3])
            raise ModelError(
                f"{layer!r} is no editable layer: the network has {len(anatomy.layers)}, such as "
                f"{few}; the classifier {anatomy.classifier} is never edited"
            )
    return replace(
        anatomy,
        layers={
            name: layer
            for name, layer in anatomy.layers.items()
            if within(name, chosen) or within(layer.weight[0], chosen)
        },
        parameters=tuple(name for name in anatomy.parameters if within(name, chosen)),
        weights=tuple(name for name in anatomy.weights if within(name, chosen)),
    )


@dataclass
class _Run:
    """What one forward pass showed, by module name."""

    calls: list[tuple[str, int, Node | None]] = field(
        default_factory=list
    )  # layer, channels, output
    norms: dict[str, list[Node | None]] = field(default_factory=dict)  # what made the input


def survey(model: nn.Module, example: Tensor) -> Anatomy:
    """Run `example` (1, C, H, W) in eval mode; mode, gradients and hooks are as before.

    The classifier is the last executed convolution or linear layer with as many output channels
    as the model has outputs. A model that cannot run or has none is a ModelError.
    """
    places = ((name, point(module)) for name, module in model.named_modules())
    points = {name: place for name, place in places if place is not None}
    heads = {id(p.rows) for p in points.values() if p.kind == "head"}
    plain = {n: p for n, p in points.items() if p.kind == "head" or id(p.rows) not in heads}
    run, output = _run(model, plain, example)
    num_classes = output.shape[1]
    classifier = _classifier(run, plain, num_classes)
    edges = _edges(output)
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    finder = _Finder(model, run, edges, owners, tied_names(model))
    excluded = {id(p) for p in model.get_submodule(classifier).parameters()}
    found = (
        finder.layer(n, plain[n]) for n in dict.fromkeys(c[0] for c in run.calls) if n != classifier
    )
    layers = {layer.name: layer for layer in found if layer is not None}
    parameters = tuple(n for n, p in model.named_parameters() if id(p) not in excluded)
    matrices = set(_matrices(model))
    weights = tuple(name for name in parameters if name in matrices)
    return Anatomy(classifier, layers, parameters, weights, num_classes)


def _run(model: nn.Module, points: Mapping[str, Point], example: Tensor) -> tuple[_Run, Tensor]:
    run = _Run()

    def see_layer(name: str) -> See:
        def see(output: Tensor) -> None:
            axis = 1 if points[name].kind == "conv" else output.dim() - 1
            # The node is taken now: an in-place activation would give the tensor another one.
            # A BatchNorm runs along axis 1, so it is no match for channels that stand elsewhere.
            node = output.grad_fn if axis == 1 else None
            run.calls.append((name, output.shape[axis], node))

        return see

    def see_norm(name: str) -> See:
        def see(value: Tensor) -> None:
            run.norms.setdefault(name, []).append(value.grad_fn)

        return see

    norms = [(m, see_norm(n)) for n, m in model.named_modules() if isinstance(m, _BatchNorm)]
    after = [(p.module, see_layer(n)) for n, p in points.items() if not p.before]
    before = [(p.module, see_layer(n)) for n, p in points.items() if p.before]
    with hooked(after, norms + before):
        return run, logits(model, example)


def logits(model: nn.Module, example: Tensor) -> Tensor:
    """(1, classes) in eval mode, with a graph even of a frozen net: the input asks for gradients.

    A network that cannot run, or that returns anything but (batch, classes), is a ModelError.
    """
    like = next(model.parameters(), example)
    try:
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            leaf = example.detach().to(like.device, like.dtype).clone().requires_grad_()
            output = model(leaf.clone())  # a copy, so that a net may change its input in place
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the model cannot run on an input of {tuple(example.shape)}: {reason}"
        ) from error
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(example):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"the model returns {got}: a classifier must return logits (batch, classes)"
        )
    return output


def _classifier(run: _Run, points: Mapping[str, Point], num_classes: int) -> str:
    for name, channels, _ in reversed(run.calls):
        if channels == num_classes and points[name].kind != "head":
            return name
    raise ModelError(
        f"no convolution or linear layer with {num_classes} outputs was run: "
        "the classifier must be one, so that it can be left out of the edit"
    )


def _edges(output: Tensor) -> dict[Node, list[Node | None]]:
    """{node: its consumers}, walking back from the output, which is a consumer too (None)."""
    consumers: dict[Node, list[Node | None]] = {}
    if output.grad_fn is None:
        return consumers
    consumers[output.grad_fn] = [None]
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            if source not in consumers:
                consumers[source] = []
                waiting.append(source)
            consumers[source].append(node)
    return consumers


@dataclass(frozen=True)
class _Finder:
    model: nn.Module
    run: _Run
    edges: Mapping[Node, list[Node | None]]
    owners: Mapping[int, int]  # how many modules hold a parameter
    tied: Mapping[str, tuple[str, ...]]

    def layer(self, name: str, place: Point) -> Layer | None:
        """The layer if its units can be edited; None if that would change something else too."""
        module = place.rows
        if not self._own(module):
            return None
        prefix = self._name(module)
        nodes = [node for called, _, node in self.run.calls if called == name]
        norm = self._norm(nodes) if place.kind != "head" else None
        weight = self.tied[f"{prefix}.weight"]
        bias: tuple[str, ...] = ()
        if norm is not None:
            bias = self.tied[f"{norm}.bias"]
        elif module.bias is not None:
            bias = self.tied[f"{prefix}.bias"]
        pin: Pin = "norm" if norm is not None else "bias" if bias else "zero"
        norm_weight = self.tied[f"{norm}.weight"] if norm is not None else ()
        return Layer(
            name, place.kind, place.units, pin, norm, weight, bias, norm_weight,
            place.width, place.first, len(nodes),
        )  # fmt: skip

    def _name(self, wanted: nn.Module) -> str:
        names: dict[nn.Module, str] = {m: name for name, m in self.model.named_modules()}
        return names[wanted]

    def _own(self, module: nn.Module) -> bool:
        """True if weight and bias are plain parameters that no other module holds."""
        bias = module.bias
        plain = module._parameters.get("weight") is not None and (
            bias is None or module._parameters.get("bias") is not None
        )
        return plain and all(
            self.owners[id(p)] == 1 for p in (module.weight, bias) if p is not None
        )

    def _norm(self, nodes: list[Node | None]) -> str | None:
        """The BatchNorm that pins a layer: affine, with running statistics, called once, and the
        only consumer of the layer's only output."""
        if len(nodes) != 1 or nodes[0] is None:
            return None
        consumers = self.edges.get(nodes[0], [])
        if len(consumers) != 1 or consumers[0] is None or "BatchNorm" not in consumers[0].name():
            return None
        for name, inputs in self.run.norms.items():
            module = self.model.get_submodule(name)
            if len(inputs) == 1 and inputs[0] is nodes[0] and self._own(module):
                tracked = isinstance(module.running_mean, Tensor) and module.bias is not None
                return name if tracked else None
        return None


def _matrices(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        if isinstance(module, _ConvNd | nn.Linear | nn.MultiheadAttention):
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if parameter.dim() >= 2:
                    yield name
