"""Recording, applying, reverting: against plain loops, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeledit.data import Split
from modeledit.errors import CheckpointError, ModelError
from modeledit.runtime import Runtime
from modeledit.surgery import (
    apply,
    apply_to_state,
    edited,
    per_unit,
    record_means,
    tap,
)
from modeledit.types import Change, EditPlan
from modeledit.units import Anatomy, survey


def change(
    name: str, shape: tuple[int, ...], indices: list[int], operand: list[float], **how
) -> Change:
    values = torch.tensor(operand, dtype=torch.float32)
    return Change(name, shape, torch.tensor(indices, dtype=torch.int64), values, **how)


Resnet = tuple[nn.Module, Anatomy]


@pytest.fixture(scope="module")
def resnet() -> Resnet:
    model = zoo.build("resnet18")
    return model, survey(model, zoo.images("resnet18", 1))


# --- recording ------------------------------------------------------------------------------------


def test_means_are_those_of_a_plain_loop() -> None:
    """Own outputs, before the in-place ReLU; unequal batches; a shared layer over both calls."""
    model = zoo.Head(zoo.Inplace(), 6).eval()
    batches = [zoo.noise(n, 3, 8, 8) for n in (3, 1)]
    split: Split = zoo.Few([b.clone() for b in batches])  # type: ignore[assignment]
    runtime = Runtime()
    model.train()
    modes = [m.training for m in model.modules()]
    means = record_means(model, split, ["features.two"], runtime)
    assert [m.training for m in model.modules()] == modes
    assert runtime.meter.images == 4
    body = model.eval().features
    with torch.no_grad():
        x = body.norm_one(body.one(torch.cat(batches) * 2)).relu()
        expected = body.two(x).double().numpy().mean((0, 2, 3))
    np.testing.assert_allclose(means["features.two"].numpy(), expected, atol=1e-7)

    shared = zoo.build("shared")
    found = record_means(shared, split, ["features.conv"], Runtime())["features.conv"]
    calls: list[Tensor] = []
    handle = shared.features.conv.register_forward_hook(lambda *a: calls.append(a[2].detach()))
    for batch in split.batches(Runtime()):
        shared(batch.images)
    handle.remove()
    assert len(calls) == 4
    total = sum(c.sum((0, 2, 3)) for c in calls) / sum(c[:, 0].numel() for c in calls)
    torch.testing.assert_close(found, total.detach())


def test_means_of_heads_are_vectors() -> None:
    model, batch = zoo.build("test_vit"), zoo.images("test_vit", 3)
    split: Split = zoo.Few([batch])  # type: ignore[assignment]
    means = record_means(model, split, ["blocks.1.attn", "blocks.1.mlp.fc1"], Runtime())
    assert means["blocks.1.attn"].shape == (2, 32)
    seen: list[Tensor] = []
    attention = model.blocks[1].attn
    handle = attention.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(batch)
    handle.remove()
    expected = seen[0].detach().mean((0, 1))  # (channels,), heads one after the other
    torch.testing.assert_close(means["blocks.1.attn"].flatten(), expected)


def test_what_cannot_be_recorded() -> None:
    model = zoo.Head(nn.Conv2d(3, 4, 1), 4)
    split: Split = zoo.Few([torch.full((1, 3, 2, 2), torch.inf)])  # type: ignore[assignment]
    with pytest.raises(ModelError, match="is not finite"):
        record_means(model, split, ["features"], Runtime())
    for name in ("nope", ""):
        with pytest.raises(ModelError, match="no layer with units"):
            record_means(model, split, [name], Runtime())
    empty: Split = zoo.Few([])  # type: ignore[assignment]
    with pytest.raises(ModelError, match="was never run"):
        record_means(model, empty, ["features"], Runtime())


def test_tap_keeps_own_outputs_with_their_gradients() -> None:
    model, batch = zoo.build("inplace"), zoo.images("inplace")
    with torch.no_grad():
        expected = model(batch.clone())
    with tap(model, ["features.two"]) as found:
        logits = model(batch.clone())
        (output,) = found["features.two"]
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), output)
    torch.testing.assert_close(logits, expected)
    assert float(output.detach().min()) < 0 < float(gradient.abs().max())  # not what the ReLU left
    assert per_unit(model, "features.two", output).shape == (2, 6, 28 * 28)
    assert not model.features.two._forward_hooks

    vit, tokens = zoo.build("test_vit"), zoo.images("test_vit")
    with tap(vit, ["blocks.0.attn"]) as found:
        vit(tokens)
    heads = per_unit(vit, "blocks.0.attn", found["blocks.0.attn"][0])  # (B, heads, width * tokens)
    flat = found["blocks.0.attn"][0]
    torch.testing.assert_close(heads[:, 1].sum(1), flat[..., 32:].sum((1, 2)))


# --- writing --------------------------------------------------------------------------------------


def plan_for(model: nn.Module) -> EditPlan:
    weight = dict(model.named_parameters())["conv1.weight"]
    flat = [0, 5, 294, weight.numel() - 1]  # 294 begins row 2
    return EditPlan((
        change("bn1.weight", (64,), [3], [1.5], action="set"),
        change("conv1.weight", tuple(weight.shape), flat, [0.0, 0.5, 0.5, 0.25]),
        change("conv1.weight", tuple(weight.shape), [2], [0.0], action="set", scope="row"),
        change("layer1.0.conv1.weight", (64, 64, 3, 3), [1, 4], [0.5, 0.0], scope="row"),
    ))  # fmt: skip


def test_apply_copies_and_touches_only_what_is_named(resnet: Resnet) -> None:
    model, _ = resnet
    before = {name: t.clone() for name, t in model.state_dict().items()}
    after = apply(model, plan_for(model)).state_dict()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    expected = {name: t.clone() for name, t in before.items()}
    expected["bn1.weight"][3] = 1.5
    flat = expected["conv1.weight"].view(-1)
    flat[0], flat[5], flat[-1] = 0, flat[5] * 0.5, flat[-1] * 0.25
    expected["conv1.weight"][2] = 0
    expected["layer1.0.conv1.weight"][1] *= 0.5
    expected["layer1.0.conv1.weight"][4] = 0
    assert all(torch.equal(after[name], expected[name]) for name in before)
    in_file = apply_to_state(before, plan_for(model), source="the file")
    assert all(torch.equal(in_file[name], expected[name]) for name in before)
    named = {c.tensor for c in plan_for(model).changes}
    assert {name for name in before if in_file[name] is not before[name]} == named


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_edited_gives_every_bit_back(error: type | None, layout: torch.memory_format) -> None:
    model = zoo.build("resnet18").to(memory_format=layout)
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = -0.0  # restored by value it would still be equal to 0.0
    plan = plan_for(model)
    before = bits(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    expected = bits(apply(model, plan))
    caught = pytest.raises(error) if error is not None else nullcontext()
    with caught, edited(model, plan) as inside:
        assert inside is model
        assert bits(model) == expected != before
        if error is not None:
            raise error
    assert bits(model) == before
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def bits(model: nn.Module) -> dict[str, bytes]:
    return {n: t.contiguous().numpy().tobytes() for n, t in model.state_dict().items()}


def test_a_write_that_fails_half_way_is_taken_back(
    resnet: Resnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeledit import surgery

    model, _ = resnet
    before, write = bits(model), surgery._write
    count = 0

    def interrupted(tensor: Tensor, what: Change) -> None:
        nonlocal count
        count += 1
        write(tensor, what)
        if count == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(surgery, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt), edited(model, plan_for(model)):
        pytest.fail("never gets here")
    assert bits(model) == before


def test_a_tied_tensor_is_scaled_once() -> None:
    model = zoo.Head(nn.Conv2d(3, 2, 1), 2)
    model.again = model.features
    halved = [change(n, (2,), [0], [0.5]) for n in ("again.bias", "features.bias")]
    old = float(model.features.bias.detach()[0])
    assert apply(model, EditPlan(tuple(halved))).features.bias.tolist()[0] == old * 0.5
    with edited(model, EditPlan(tuple(halved))):
        assert model.features.bias.tolist()[0] == old * 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scaling_rounds_in_the_dtype_of_the_tensor(dtype: torch.dtype) -> None:
    values = torch.tensor([-1 / 3, -2.0, 1 / 7, torch.inf, -0.0], dtype=dtype)
    plan = EditPlan((change("w", (5,), [0, 1, 3, 4], [0.3, 0.0, 0.0, 0.0]),))
    after = apply_to_state({"w": values}, plan, source="s")["w"]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert after.dtype == dtype
    factor = torch.tensor(0.3, dtype=torch.float32).to(wide)
    assert float(after[0]) == float((values[0].to(wide) * factor).to(dtype))
    assert after[1].item() == after[3].item() == 0
    assert not torch.signbit(after[[1, 3, 4]]).any()
    assert after[2] == values[2]
    done = apply_to_state(
        {"w": values}, EditPlan((change("w", (5,), [2], [0.1], action="set"),)), source="s"
    )
    assert float(done["w"][2]) == float(torch.tensor(0.1, dtype=torch.float32).to(dtype))


def test_a_scalar_parameter_can_be_edited() -> None:
    plan = EditPlan((change("s", (), [0], [0.5]),))
    assert float(apply_to_state({"s": torch.tensor(3.0)}, plan, source="s")["s"]) == 1.5


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_edit_is_the_plain_loop_and_comes_back(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    scope = data.draw(st.sampled_from(["row", "element"]))
    action = data.draw(st.sampled_from(["set", "scale"]))
    limit = shape[0] if scope == "row" else int(np.prod(shape))
    indices = sorted(data.draw(st.sets(st.integers(0, limit - 1))))
    factors = st.sampled_from([0.0, 0.25, 1.0])
    operand = [data.draw(factors) for _ in indices]
    start = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = start.copy()
    rows = expected.reshape(limit, -1)
    for index, value in zip(indices, operand, strict=True):
        rows[index] = value if action == "set" else rows[index] * value + 0.0
    what = change("weight", shape, indices, operand, action=action, scope=scope)
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.from_numpy(start.copy())))
    with edited(module, EditPlan((what,))):
        np.testing.assert_array_equal(module.weight.detach().numpy(), expected)
    np.testing.assert_array_equal(module.weight.detach().numpy(), start)


BAD = {
    "unknown": (change("nope", (1,), [0], [0.0]), "nope, which is not there"),
    "shape": (change("conv1.weight", (64, 3), [0], [0.0]), "of shape"),
    "range": (change("bn1.bias", (64,), [64], [0.0]), "entry 64 of bn1.bias, which has 64"),
    "negative": (change("bn1.bias", (64,), [-1], [0.0]), "entry -1"),
    "rows": (change("conv1.weight", (64, 3, 7, 7), [64], [0.0], scope="row"), "which has 64"),
    "integer": (change("bn1.num_batches_tracked", (), [0], [0.0]), "only floating-point"),
    "lengths": (change("bn1.bias", (64,), [1, 2], [0.0]), "2 indices for 1 values"),
    "nan": (change("bn1.bias", (64,), [1], [float("nan")]), "not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_plan_for_another_model_is_refused_before_anything_is_written(
    case: str, resnet: Resnet
) -> None:
    wrong, message = BAD[case]
    model, _ = resnet
    plan = EditPlan((change("bn1.weight", (64,), [0], [0.0]), wrong))
    before = bits(model)
    attempts: list[tuple[type[Exception], Callable[[], object]]] = [
        (ModelError, lambda: apply(model, plan)),
        (ModelError, lambda: edited(model, plan).__enter__()),
        (CheckpointError, lambda: apply_to_state(model.state_dict(), plan, source="x.safetensors")),
    ]
    for error, attempt in attempts:
        with pytest.raises(error, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert bits(model) == before
