"""The README.md of a model folder, which the hub shows: tasks, classes, metrics and their command, pictures.

Nothing is made up: what nobody has named (licence, metrics) is said to be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.checkpoints.errors import CheckpointError
from ufo.files import write_text
from ufo.ops.nearest import few
from ufo.tables import markdown

if TYPE_CHECKING:
    from ufo.model import UFO

CARD, PICTURES = "README.md", "pictures"
FEW_CLASSES = 30  # names that a card lists


def write_card(
    model: UFO,
    folder: Path,
    *,
    name: str,
    results: Mapping[str, float | None],
    command: str,
    licence: str,
    pictures: Sequence[Any],
) -> None:
    """Write the card into a model folder, and drawings of what the model finds in `pictures` beside it."""
    drawn = _draw(model, folder, pictures)
    parts = [
        _head(model, licence),
        f"# {name}\n\nA {type(model.backbone).__name__} of [UFO](https://arxiv.org/abs/2503.01342) with "
        f"{_millions(model)} M parameters, which answers {len(model.tasks)} tasks about an image in words.",
        _usage(name, model),
        _tasks(model),
        _metrics(results, command),
        "## Licence\n\n" + (licence or "No licence was named; ask the owner before using these weights."),
    ]
    if drawn:
        shown = "\n\n".join(f"![What the model finds in picture {i}]({p})" for i, p in enumerate(drawn, 1))
        parts.insert(2, shown)
    write_text(folder / CARD, "\n\n".join(parts) + "\n")


def _head(model: UFO, licence: str) -> str:
    """The yaml that the hub reads; a JSON text is one of yaml, whatever is in it."""
    base = (model.backbone.base or {}).get("name", "")
    values: dict[str, Any] = {"tags": ["ufo", *(task.replace("_", "-") for task in model.tasks)]}
    if licence:
        values["license"] = licence
    if base and not Path(base).exists():
        values["base_model"] = base
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _usage(name: str, model: UFO) -> str:
    lines = ["import ufo", "", f'model = ufo.load("{name}")']
    if _asked_alone(model):
        lines.append('model.predict("scene.jpg").save("found.png")')
    task = next((name for name, task in model.tasks.items() if task.needs_text), None)
    if task is not None:
        lines.append(f'model.predict("scene.jpg", "{task}", text="...")  # what to look for, or a question')
    return "## Use\n\nWith the package `ufo-vision`:\n\n```python\n" + "\n".join(lines) + "\n```"


def _asked_alone(model: UFO) -> bool:
    """Whether there is a task that can be asked with a picture alone."""
    return any(
        not task.needs_text and (name in model.classes or task.prompt(["x"], "") == task.prompt([], ""))
        for name, task in model.tasks.items()
    )


def _tasks(model: UFO) -> str:
    rows = []
    for name, task in model.tasks.items():
        classes = model.classes.get(name, ())
        shown = few(classes, FEW_CLASSES)
        asked = "a text" if task.needs_text else "class names" if classes else "the image alone"
        rows.append([name, asked, shown or "-", f"{task.image_size} x {task.image_size} px"])
    calibrated = [name for name, task in model.tasks.items() if task.calibration]
    scores = f"\n\nScores are probabilities, calibrated on held-out data: {', '.join(calibrated)}."
    return (
        "## Tasks\n\n"
        + markdown(["task", "asked with", "classes", "sees"], rows)
        + (scores if calibrated else "")
    )


def _metrics(results: Mapping[str, float | None], command: str) -> str:
    if not results:
        return "## Metrics\n\nNone were given with this model."
    rows = [[k, "-" if v is None else f"{v:.4f}"] for k, v in results.items()]
    how = f"\n\nMeasured by:\n\n```bash\n{command}\n```" if command else "\n\nThe command was not given."
    return "## Metrics\n\n" + markdown(["metric", "value"], rows) + how


def _draw(model: UFO, folder: Path, pictures: Sequence[Any]) -> list[str]:
    """Drawings of all tasks that need no text, in the folder; their names in it."""
    if pictures and not _asked_alone(model):
        raise CheckpointError(
            "no picture can be drawn into the card, as every task of this model needs a text or class names; "
            "leave the pictures out"
        )
    names = [f"{PICTURES}/{number}.jpg" for number in range(1, len(pictures) + 1)]
    for name, picture in zip(names, pictures, strict=True):
        model.predict(picture).save(folder / name)
    return names


def _millions(model: UFO) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}"
