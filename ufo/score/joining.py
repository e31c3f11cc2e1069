"""Which prediction is about which example: by image and text, by sentence id, or, without either, in order.

Nothing is dropped without a word: what is unknown or said twice ends the scoring, what is missing counts as
a miss and is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ufo.data.datasets.captions import clean_text
from ufo.data.datasets.coco_file import short
from ufo.data.errors import DataError
from ufo.score.predictions import Answer
from ufo.score.truth import Example, Truth

SHOWN = 3  # names of what is missing


@dataclass
class Joined:
    """The answers of each example, in the order of the examples; none: missing."""

    answers: list[list[Answer]]
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def join(truth: Truth, answers: Sequence[Answer], path: Path, none_is_valid: bool = False) -> Joined:
    """Raises DataError for a prediction about something that the annotations do not have, or said twice.

    With `none_is_valid` a file without any record is that of a model which has found nothing.
    """
    found = _expressions(truth, answers, path) if truth.expressions else _images(truth, answers, path)
    missing = [str(e) for e, given in zip(truth.examples, found.answers, strict=True) if not given]
    if missing:
        what = "expressions" if truth.expressions else "images"
        if len(missing) == len(truth.examples) and (answers or not none_is_valid):
            raise DataError(
                f"{path} has no prediction for any of the {len(missing)} {what} of {truth.path}; give the "
                "annotations that were predicted on."
            )
        found.missing = missing
        names = "; ".join(missing[:SHOWN])
        found.remarks.append(
            f"{len(missing)} of {len(truth.examples)} {what} have no prediction (first: {names})"
        )
    return found


class Names:
    """Images by whatever a prediction may call them; names that two images share are none."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._exact: dict[Any, Any] = {}
        self._tolerant: dict[str, Any] = {}
        self._said: dict[Any, str] = {}  # by image: how a prediction has called it
        self._strange: list[str] = []  # records that also name a file which the annotations do not have
        self._numbers: set[str] = set()
        for example in examples:
            self._exact[example.image] = example.image
            if isinstance(example.image, int):
                self._numbers.add(str(example.image))
            for name in _called(example):
                other = self._tolerant.setdefault(name, example.image)
                if other != example.image:
                    self._tolerant[name] = None

    def of(self, answer: Answer) -> Any:
        """The id of the image that a record is about, or None. Raises DataError where it names two."""
        if answer.image is None:
            return None
        if answer.by_id and answer.image not in self._exact:
            _refuse_text(answer, "image_id", answer.image, self._numbers)
        image = self.find(answer.image)
        for name in answer.names if image is not None else ():
            other = self._meant(name)
            if other not in (None, image):
                raise DataError(
                    f"{answer.where} is about image {short(answer.image)} and about {short(name)}, which are "
                    "two images in the annotations; leave the wrong name out."
                )
            if other is None and not any(t in self._tolerant for t in _spellings(name)):
                self._strange.append(f"{short(name)} beside {short(answer.image)}")
        return image

    def remarks(self) -> list[str]:
        """What was odd about the names, in a sentence each."""
        if not self._strange:
            return []
        return [
            f"warning: {len(self._strange)} records name a file that the annotations do not have (first: "
            f"{self._strange[0]}) and count for the image of their id; check that the ids are those of the "
            "annotations"
        ]

    def find(self, name: int | str) -> Any:
        """The image's id, or None. Raises DataError where two names mean one image, but not one file."""
        found = self._meant(name)
        if found is None or name in self._exact:
            return found
        text = _spellings(name)[1]
        other = self._said.setdefault(found, text)
        if not _one_file(other, text):
            raise DataError(
                f"predictions about {short(other)} and about {short(text)} would both count for image "
                f"{short(found)}; name images as the annotations do."
            )
        return found

    def _meant(self, name: int | str) -> Any:
        """The image's id, or None."""
        if name in self._exact:
            return self._exact[name]
        return next((i for t in _spellings(name) if (i := self._tolerant.get(t)) is not None), None)


def _refuse_text(answer: Answer, field: str, said: int | str | None, numbers: Container[str]) -> None:
    """Raises DataError for an id that is a number in the annotations, and a text of its digits here."""
    if isinstance(said, str) and said in numbers:
        raise DataError(
            f'{answer.where}: `{field}` is the text "{said}", and in the annotations the number {said}; '
            "write it without quotation marks."
        )


def _spellings(name: int | str) -> tuple[str, ...]:
    """A prediction's name of an image as it is, as a path, as a file and without its suffix."""
    text = str(name).replace("\\", "/")  # as Windows writes paths
    path = PurePosixPath(text)
    return str(name), text, path.name, path.stem, text.removesuffix(".png")


def _one_file(one: str, other: str) -> bool:
    """Whether two names can be of one file: as far as both say folders and suffix, these are the same."""
    if one == other:
        return True
    ours, theirs = (PurePosixPath(name).parts[::-1] for name in (one, other))
    if not ours or not theirs or ours[1 : len(theirs)] != theirs[1 : len(ours)]:
        return False
    return f"{ours[0]}.".startswith(f"{theirs[0]}.") or f"{theirs[0]}.".startswith(f"{ours[0]}.")


def _called(example: Example) -> set[str]:
    paths = [PurePosixPath(name.replace("\\", "/")) for name in example.names]
    return {str(example.image), *(form for path in paths for form in (str(path), path.name, path.stem))}


def _images(truth: Truth, answers: Sequence[Answer], path: Path) -> Joined:
    """All records of an image belong to it."""
    names, row = Names(truth.examples), {e.image: i for i, e in enumerate(truth.examples)}
    joined = Joined([[] for _ in truth.examples])
    unknown = []
    for answer in answers:
        image = names.of(answer)
        if image is None:
            unknown.append(answer)
        else:
            joined.answers[row[image]].append(answer)
    _refuse_unknown(unknown, len(answers), truth, path)
    joined.remarks += names.remarks()
    return joined


def _refuse_unknown(unknown: Sequence[Answer], total: int, truth: Truth, path: Path) -> None:
    if not unknown:
        return
    first = unknown[0]
    if first.image is None:
        raise DataError(f"{first.where} does not say which image it is about; add `image_id` or `image`.")
    raise DataError(
        f"{first.where} is about image {short(first.image)}, which {truth.path} does not have "
        f"({len(unknown)} of "
        f"{total} records are); give the annotations that were predicted on."
    )


def _expressions(truth: Truth, answers: Sequence[Answer], path: Path) -> Joined:
    """Records by image and text, else by sentence id, else by their order."""
    ids = {str(e.id): i for i, e in enumerate(truth.examples) if e.id is not None}
    numbers = {str(e.id) for e in truth.examples if isinstance(e.id, int)}
    by_text, by_image = _rows(truth)
    names = Names(truth.examples)
    rows: list[int | list[int]] = []
    unknown: list[Answer] = []
    for answer in answers:
        if answer.image is None and answer.id is None and answer.text is None:
            return _in_order(truth, answers, path)
        if answer.numbered:
            _refuse_text(answer, "sent_id", answer.id, numbers)
        image = names.of(answer)
        if image is None and answer.image is not None and answer.image != answer.id:
            unknown.append(answer)
            rows.append([])
        elif answer.text is not None and image is not None:
            rows.append(_of_text(answer, by_text.get((image, clean_text(answer.text)), []), ids, truth))
        elif answer.id is not None and str(answer.id) in ids:
            place = ids[str(answer.id)]
            if image not in (None, truth.examples[place].image) and answer.id != answer.image:
                raise DataError(
                    f"{answer.where}: sentence {short(answer.id)} is about image "
                    f"{truth.examples[place].image} in "
                    f"{truth.path} and not about {short(answer.image)}; say which expression by `text`."
                )
            rows.append(place)
        elif image is not None and len(by_image[image]) == 1:
            rows.append(by_image[image][0])
        elif image is not None:
            raise DataError(
                f"{answer.where}: image {short(answer.image)} has {len(by_image[image])} expressions; "
                "say which by "
                "`text` or `sent_id`."
            )
        else:
            unknown.append(answer)
            rows.append([])
    _refuse_unknown(unknown, len(answers), truth, path)
    joined = _placed(truth, answers, rows)
    joined.remarks += names.remarks()
    return joined


def _of_text(answer: Answer, places: list[int], ids: dict[str, int], truth: Truth) -> list[int]:
    """The places of a text about an image, checked."""
    asked = f'"{short(answer.text)}"'
    if not places:
        raise DataError(
            f"{answer.where}: the text {asked} is not asked about image {short(answer.image)} in "
            f"{truth.path}; give the annotations that were predicted on."
        )
    if answer.numbered and not truth.lines and ids.get(str(answer.id), places[0]) not in places:
        raise DataError(
            f"{answer.where}: sentence {short(answer.id)} is not {asked} about image "
            f"{short(answer.image)} in {truth.path}; leave the wrong one out."
        )
    return places


def _rows(truth: Truth) -> tuple[dict[tuple[Any, str], list[int]], dict[Any, list[int]]]:
    """Examples by image and text, and by image: an expression may be said twice."""
    by_text: dict[tuple[Any, str], list[int]] = defaultdict(list)
    by_image: dict[Any, list[int]] = defaultdict(list)
    for i, example in enumerate(truth.examples):
        by_text[example.image, clean_text(example.text)].append(i)
        by_image[example.image].append(i)
    return by_text, by_image


def _placed(truth: Truth, answers: Sequence[Answer], rows: Sequence[int | list[int]]) -> Joined:
    """Give each example its answer; of several examples with one image and text, in order."""
    joined = Joined([[] for _ in truth.examples])
    alike: dict[int, list[int]] = {}
    for answer, place in zip(answers, rows, strict=True):
        places = [place] if isinstance(place, int) else place
        free = next((i for i in places if not joined.answers[i]), None)
        if free is None and not truth.generalized:
            raise DataError(
                f"{answer.where} is another prediction for {truth.examples[places[0]]}, as "
                f"{joined.answers[places[0]][0].where}; keep one."
            )
        joined.answers[places[0] if free is None else free].append(answer)
        if len(places) > 1:
            alike[places[0]] = places
    shared = 0
    for places in alike.values():
        for i in places:
            if not joined.answers[i]:
                joined.answers[i] = joined.answers[places[0]]
                shared += 1
    if shared:
        joined.remarks.append(
            f"{shared} expressions asked twice about their image took the one answer there is"
        )
    return joined


def _in_order(truth: Truth, answers: Sequence[Answer], path: Path) -> Joined:
    """Records that say nothing of what they are about."""
    if any(a.image is not None or a.id is not None or a.text is not None for a in answers):
        raise DataError(
            f"{path}: some records say which expression they are about and some do not; add `sent_id`."
        )
    if len(answers) != len(truth.examples):
        raise DataError(
            f"{path} has {len(answers)} records for {len(truth.examples)} expressions and does not "
            "say which is "
            "which; add `sent_id`, or `image` and `text`."
        )
    remark = "predictions do not name their expressions and were taken in the order of the annotations"
    return Joined([[answer] for answer in answers], remarks=[remark])
