"""The model card: what a person should know before using an edited checkpoint.

Written from the JSON form of the report alone. Numbers are of the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from modeledit.report.card_aspects import aspects, limits, number, table, text

Json = Mapping[str, Any]
NO_CONFIG: Json = MappingProxyType({})
SLICES = {"forget": "forgotten classes", "retain": "all other classes", "all": "all classes"}


def model_card(report: Json, config: Json = NO_CONFIG) -> str:
    """README.md of an edited checkpoint.

    report: `Report.to_dict()` of a run that edited; config: the checkpoint's config.json.
    """
    timm = "architecture" in config
    parts = [
        _front_matter(timm),
        f"# {text(report['model']['spec'])}, edited",
        _summary(report),
        _verdict(report),
        _slices(report["before"], report["after"]),
        *aspects(report),
        _harmed(report),
        _landings(report["after"]),
        _notes(report.get("notes", ())),
        _loading(timm, report["model"]["spec"]),
        _files(),
        limits(report),
        _origin(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(timm: bool) -> str:
    library = ["library_name: timm"] if timm else []
    tags = ["- image-classification", "- modeledit", *(["- timm"] if timm else [])]
    return "\n".join(["---", *library, "pipeline_tag: image-classification", "tags:", *tags, "---"])


def _summary(report: Json) -> str:
    edit = report["edit"]
    units = f" ({edit['changed_units']:,} units)" if edit["changed_units"] else ""
    return (
        f"Edited with modeledit for the target `{report['target']}`: "
        f"{edit['changed_weights']:,} weights{units}, {edit['changed_fraction']:.3%} of the "
        f"network, chosen by the scorer `{edit['scorer']}` and changed by the editor "
        f"`{edit['editor']}` at strength {edit['strength']}. {_candidates(report)}"
        f"{_training(edit)} Names, shapes and dtypes of the tensors are those of the "
        "original; the output layer keeps its size."
    )


def _candidates(report: Json) -> str:
    """Which one was taken, where several were tried."""
    tried = report.get("candidates", ())
    taken = [each["name"] for each in tried if each["chosen"]]
    names = ", ".join(text(each["name"]) for each in tried)
    return f"Best on the validation images of {names}: {text(taken[0])}. " if taken else ""


def _training(edit: Json) -> str:
    """Only an editor that trains has steps among its options."""
    steps = edit.get("editor_options", {}).get("steps")
    if steps is None:
        return "No training followed."
    return f"Then {steps:,} steps of training on retained images followed, see the notes below."


def _verdict(report: Json) -> str:
    lines = [
        f"**Verdict: {report['verdict']}.** {_sentence(report.get('explanation', ''))}".strip()
    ]
    rows = [
        (gate["name"], number(gate["value"]), number(gate["limit"]), _word(gate["passed"]))
        for gate in report.get("gates", ())
    ]
    if rows:
        lines.append(table(("gate", "value", "limit", "result"), rows))
    return "\n\n".join(lines)


def _slices(before: Json, after: Json) -> str:
    rows = []
    for key, name in SLICES.items():
        if key in before and key in after:
            pairs = [
                f"{number(before[key][metric])} -> {number(after[key][metric])}"
                for metric in ("accuracy", "macro_f1", "ece")
            ]
            rows.append((name, f"{after[key]['n']:,}", *pairs))
    head = ("images of", "n", "accuracy", "macro-F1", "calibration error")
    title = "## Before and after, on the test split"
    return f"{title}\n\n{table(head, rows)}"


def _harmed(report: Json) -> str:
    """The retained class whose F1 fell most, and by how much."""
    forgotten = _forgotten(report)
    drops = [
        (old["f1"] - new["f1"], old, new)
        for index, (old, new) in enumerate(
            zip(report["before"]["per_class"], report["after"]["per_class"], strict=True)
        )
        if index not in forgotten and old["support"]
    ]
    if not drops:
        return ""
    drop, old, new = max(drops, key=lambda item: item[0])
    if drop <= 0:
        return "No other class lost F1."
    return (
        f"Most harmed among the other classes: **{text(old['name'])}**, "
        f"F1 {number(old['f1'])} -> {number(new['f1'])}, "
        f"recall {number(old['recall'])} -> {number(new['recall'])}, "
        f"precision {number(old['precision'])} -> {number(new['precision'])} "
        f"({old['support']:,} images)."
    )


def _forgotten(report: Json) -> set[int]:
    kind, _, classes = report["target"].partition(":")
    return {int(index) for index in classes.split(",")} if kind == "class" else set()


def _landings(after: Json) -> str:
    places = [f"{text(p['name'])} {p['share']:.1%}" for p in after.get("landings", ())]
    return (
        f"Images of the forgotten classes are now predicted as: {', '.join(places)}."
        if places
        else ""
    )


def _notes(notes: Sequence[str]) -> str:
    return "\n".join(f"- {text(note)}" for note in notes)


def _loading(timm: bool, spec: str) -> str:
    if timm:
        code = 'import timm\nmodel = timm.create_model("local-dir:PATH", pretrained=True)'
    elif spec.startswith("python:"):  # a module that was handed in: only its author can build it
        code = (
            "from safetensors.torch import load_file\n"
            f"# model: a {spec.removeprefix('python:')}, built as the original was\n"
            'model.load_state_dict(load_file("PATH/model.safetensors"))'
        )
    else:
        code = 'from modeledit import load_model\nmodel = load_model("PATH").module'
    return (
        "## Load\n\nPATH is this directory.\n\n"
        f"```python\n{code}\n```\n\n"
        "`modeledit verify PATH` checks that the files belong together."
    )


def _files() -> str:
    return (
        "## Revert\n\n"
        "`modeledit revert PATH -o original.safetensors` writes the original weights again, if "
        "`undo.safetensors` is here.\n\n"
        "**Do not ship `undo.safetensors`.** It holds the old values of the changed weights: "
        "whoever has it has the class (or whatever else was edited away) back. "
        "`edit.safetensors` names the changed weights and their new values only, but whoever has "
        "the original checkpoint has everything anyway."
    )


def _origin(report: Json) -> str:
    model, data = report["model"], report["data"]
    splits = ", ".join(f"{name} {count:,}" for name, count in data.get("splits", {}).items())
    versions = ", ".join(f"{name} {number}" for name, number in sorted(report["versions"].items()))
    rows = [
        ("original model", f"`{model['digest']}`"),
        ("this model", f"`{model.get('edited', '')}`"),
        ("edit", f"`{report['edit']['digest']}`"),
        ("data", f"{text(data['spec'])} ({splits})"),
        ("seed", str(report["seed"])),
        ("versions", versions),
    ]
    return f"## Origin\n\n{table(('what', 'value'), rows)}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _word(passed: bool) -> str:
    return "passed" if passed else "failed"
