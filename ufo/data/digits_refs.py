"""What is asked about generated scenes, as files: all of it follows from the annotations and the seed.

RefCOCO references, reasoning texts, LLaVA conversations, and gRefCOCO references that mean one object,
several or none. Scenes of an earlier version get the files that they lack.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ufo.data.digits_generalised import generalised
from ufo.data.digits_questions import conversation, reasoning
from ufo.data.digits_scene import VARIANTS, Variant
from ufo.data.digits_text import Thing

# streams of random numbers, above those of scenes: what was drawn before there were questions stays as it was
_QUESTIONS = 100
_GENERALISED = 200


def things_of(annotations: list[dict[str, Any]], spec: Variant) -> list[Thing]:
    """What can be said about the annotated objects of a scene."""
    return [
        Thing(
            spec.classes[a["category_id"] - 1], a["color"], tuple(a["bbox"]), a["area"], a.get("texture", "")
        )
        for a in annotations
    ]


def write_json(path: Path, value: Any) -> None:
    """Write JSON without blanks."""
    path.write_text(json.dumps(value, separators=(",", ":")))


def numbered(scenes: list[dict]) -> Iterator[tuple[int, int, dict, list[str]]]:
    """`(image id, annotation id, annotation, expressions)` of every object, ids from 1."""
    number = 0
    for image_id, scene in enumerate(scenes, 1):
        for annotation, texts in zip(scene["annotations"], scene["expressions"], strict=True):
            number += 1
            yield image_id, number, annotation, texts


def write_refs(path: Path, scenes: list[dict], split: str) -> None:
    """RefCOCO's pickle, of the expressions of some scenes."""
    with open(path, "wb") as file:
        pickle.dump(list(_refs(scenes, split)), file, protocol=2)


def write_questions(folder: Path, scenes: list[dict], split: str, stamp: dict) -> None:
    """Reasoning texts as references, and conversations, of scenes with their annotations."""
    spec = VARIANTS[stamp["variant"]]
    if spec.shapes:  # the questions are about numbers
        return
    talks: list[dict[str, Any]] = []
    texts: list[dict] = []
    for scene, things, rng in _each(scenes, split, stamp, _QUESTIONS):
        texts.append({"annotations": scene["annotations"], "expressions": reasoning(things, rng)})
        turns = conversation(things, stamp["size"], rng)
        # each question of its own at evaluation
        for i, part in enumerate([turns] if split == "train" else [[turn] for turn in turns]):
            talks.append(_conversation(f"{scene['name']}_{i}", f"{scene['name']}.jpg", part))
    write_json(folder / "conversations.json", talks)
    write_refs(folder / "refcoco" / "refs(reasoning).p", texts, split)


def write_generalised(folder: Path, scenes: list[dict], split: str, stamp: dict) -> None:
    """gRefCOCO's JSON: one reference for every set of objects that some expressions mean."""
    noun = VARIANTS[stamp["variant"]].noun
    refs: list[dict[str, Any]] = []
    before = sent_id = 0  # annotations and sentences of earlier scenes
    for image_id, (scene, things, rng) in enumerate(_each(scenes, split, stamp, _GENERALISED), 1):
        meanings: dict[tuple[int, ...], list[str]] = {}
        for text, fitting in generalised(things, stamp["size"], rng, noun):
            meanings.setdefault(tuple(fitting), []).append(text)
        for meant, texts in meanings.items():
            sentences = [_sentence(sent_id + i, text) for i, text in enumerate(texts, 1)]
            sent_id += len(texts)
            category = [scene["annotations"][i]["category_id"] for i in meant]
            refs.append(
                {
                    **_head(len(refs) + 1, image_id, split, sentences),
                    "ann_id": [before + i + 1 for i in meant] or [-1],
                    "category_id": category or [-1],
                    "no_target": not meant,
                }
            )
        before += len(things)
    write_json(folder / "refcoco" / "grefs(digits).json", refs)


ADDED: dict[int, Callable[[Path, list[dict], str, dict], None]] = {2: write_questions, 3: write_generalised}
"""The files that a format of the scenes added to the one before."""


def add_files(out: Path, scratch: Path, stamp: dict[str, Any], since: int, name: str) -> bool:
    """Give finished scenes of the format `since` what they lack; nobody who reads other files is disturbed.

    `scratch` is an unused folder beside `out`, `name` the stamp's file.
    """
    try:
        for split in ("train", "val"):
            content = json.loads((out / split / "instances.json").read_text())
            scenes: list[dict[str, Any]] = [
                {"name": i["file_name"].removesuffix(".jpg"), "annotations": []} for i in content["images"]
            ]
            for annotation in content["annotations"]:
                scenes[annotation["image_id"] - 1]["annotations"].append(annotation)
            (scratch / split / "refcoco").mkdir(parents=True)
            for number, write in ADDED.items():
                if number > since:
                    write(scratch / split, scenes, split, stamp)
        (scratch / name).write_text(json.dumps(stamp, indent=1) + "\n")
        for file in sorted(f for f in scratch.rglob("*") if f.is_file() and f.name != name):
            file.replace(out / file.relative_to(scratch))
        (scratch / name).replace(out / name)  # last: a kill before this line only repeats the work
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _each(
    scenes: list[dict], split: str, stamp: dict, stream: int
) -> Iterator[tuple[dict, list[Thing], np.random.Generator]]:
    """Each scene, what can be said about it, and random numbers of its own."""
    spec = VARIANTS[stamp["variant"]]
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([stamp["seed"], stream + spec.stream, int(split == "val"), index])
        yield scene, things_of(scene["annotations"], spec), rng


def _conversation(name: str, image: str, turns: list[tuple[str, str]]) -> dict[str, Any]:
    """A LLaVA record."""
    said = [
        message
        for question, answer in turns
        for message in ({"from": "human", "value": question}, {"from": "gpt", "value": answer})
    ]
    said[0]["value"] = "<image>\n" + said[0]["value"]
    return {"id": name, "image": image, "conversations": said}


def _refs(scenes: list[dict], split: str) -> Iterator[dict[str, Any]]:
    """RefCOCO records of plain builtins, one per object that has an expression.

    An expression is a text, or a text and whether it is a whole sentence.
    """
    ref_id = sent_id = 0
    for image_id, ann_id, annotation, texts in numbered(scenes):
        if not texts:
            continue
        ref_id += 1
        sentences = [_sentence(sent_id + i, text) for i, text in enumerate(texts, 1)]
        sent_id += len(texts)
        head = _head(ref_id, image_id, split, sentences)
        yield {**head, "ann_id": ann_id, "category_id": annotation["category_id"]}


def _head(ref_id: int, image_id: int, split: str, sentences: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "file_name": f"{image_id:06d}.jpg",
        "sent_ids": [s["sent_id"] for s in sentences],
        "sentences": sentences,
    }


def _sentence(sent_id: int, text: str | tuple[str, bool]) -> dict[str, Any]:
    kind = {}
    if isinstance(text, tuple):
        text, kind["is_sentence"] = text
    return {"sent_id": sent_id, "sent": text, "raw": text, "tokens": text.split(), **kind}
