"""What a task is: a prompt, an answer grammar, and how targets become answers and answers predictions.

A task has no weights and knows no backbone (paper section 3). One file per task.
Shapes: `B` images, `Q` queries of an image, `M` masks, `h w` sub-pixels, `H W` pixels.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from ufo.kinds import Kind, Text
from ufo.ops.grid import Queries
from ufo.ops.masks import plane_side
from ufo.ops.monotone import apply_monotone
from ufo.tasks.wording import UFO_VIT, Wording
from ufo.types import ANNOTATIONS, Batch, Prediction, Segment, given

Answer = str | Sequence[Segment] | None
"""What one row should say. A conversation of several turns is a sequence of segments: those that are learned
end with the end token, the others are further questions, which the backbone puts into its chat format
(`Backbone.follow_up`). None: the row has no loss."""

Fields = tuple[tuple[str, ...], ...]
"""A well-formed answer: one text of each field, one after the other."""


@dataclass
class ChosenMasks:
    """Masks of answers, several of which may show one object: copied where they are needed, not before.

    At 1120 px the answers about 16 objects are 60 MB, which would be written twice and sent to the device.
    """

    of_images: list[Tensor]  # B of uint8 [N, H, W]
    chosen: Tensor  # int64 [M], among the masks of all images

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """All of them, uint8 `[M, H, W]`, on a device."""
        masks = torch.cat([m.to(device, non_blocking=non_blocking) for m in self.of_images])
        return masks[self.chosen.to(device, non_blocking=non_blocking)]


@dataclass
class Asked:
    """What the images of a batch are asked and, in training, what the model should answer.

    Built on the CPU: matching and text need nothing else. Raises ValueError where answers do
    not fit the rows.
    """

    prompts: list[str]  # B questions; the backbone puts them into its chat format
    queries: Queries | None = None  # the queries of each image that answer; None: one answer per image
    # training only
    answers: Sequence[Answer] = ()  # B*Q rows, image by image
    masks: Tensor | ChosenMasks | None = None  # uint8 [M, H, W], sorted by row; None: the task has no masks
    mask_counts: list[int] = field(default_factory=list)  # B, masks per image
    classes: list[tuple[str, ...]] | None = None  # B lists that are asked for instead of the batch's one

    def __post_init__(self) -> None:
        if not self.answers:
            return
        rows = len(self.prompts) * (1 if self.queries is None else self.queries.references.shape[1])
        if len(self.answers) != rows:
            raise ValueError(
                f"a task's `supervise` gave {len(self.answers)} answers for {rows} rows; give each image "
                "one, or each of its queries"
            )
        strange = next((a for a in self.answers if not (a is None or isinstance(a, (str, Sequence)))), None)
        if strange is not None:
            raise ValueError(
                f"a task's `supervise` gave the answer {strange!r}; an answer is a text: {str(strange)!r}"
            )


class Said(NamedTuple):
    """One answer, as far as its form goes."""

    text: str
    masks: int  # how many mask tokens it holds
    cut: bool  # it was still going on where `max_length` ended it


@dataclass
class Answers:
    """What the model answered to the queries of one image, in the order of the queries."""

    texts: list[str]  # Q
    scores: Tensor  # float32 [Q], probability of the first token
    references: Tensor | None  # [Q, 2] normalised (x, y); None: the only answer of an image
    size: tuple[int, int]  # (height, width) of the original image
    classes: tuple[str, ...]
    mask_counts: list[int]  # Q, how many mask tokens each answer holds
    # rows [M] with enough mask tokens -> probabilities of their first masks, float32 [M, H, W], original
    # size; a second argument [M] says which mask of its row is meant
    retrieve_masks: Callable[..., Tensor]
    # the same rows -> logits [M, h, w] before they are resized, for tasks that need not see every pixel
    retrieve_logits: Callable[[Tensor], Tensor] | None = None
    refusals: Tensor | None = None  # float32 [Q], probability of the task's `refusal`; None: it has none
    cut: Sequence[bool] = ()  # Q, whether `max_length` ended an answer; empty: it ended none
    # `sequence` or `quality` -> float32 [Q, n], how sure the tokens are that say each of up to n objects
    certainty: Callable[[str], Tensor] | None = None
    # of these objects the numbers of the box, [Q, n, 4]: as said int64, and as expected float32; -1: no box
    numbers: Callable[[], tuple[Tensor, Tensor]] | None = None

    @property
    def said(self) -> list[Said]:
        """Q answers with what tells whether they are well-formed."""
        cut = self.cut or [False] * len(self.texts)
        return [Said(*one) for one in zip(self.texts, self.mask_counts, cut, strict=True)]


SCORES = ("first", "sequence", "quality")
"""What the score of an object may be; docs/trust.md#what-the-score-of-a-box-is."""
BOXES = ("said", "expected")
"""Which box the numbers of an answer mean; docs/trust.md#boxes-between-the-bins."""

AnyTask = TypeVar("AnyTask", bound="Task")


@dataclass(kw_only=True)
class Task(ABC):
    """Settings that every task has, stored with a checkpoint.

    A model works with a copy that speaks its backbone's language (`worded`), so models may share a task.
    """

    name: ClassVar[str]
    published_classes: ClassVar[str] = ""  # file in conf/vocab: the classes of the published models
    needs_text: ClassVar[bool] = False  # a prompt with the user's words
    names_first: ClassVar[bool] = False  # an answer counts only if it begins with a class name and a comma
    cuts_answers: ClassVar[bool] = True  # training cuts an answer at `max_length`, as free text may be
    kind: ClassVar[Kind]  # what kind of result its answers are (`ufo.kinds`)
    answers_background: ClassVar[bool] = False  # queries learn to say that they answer for no object
    needs: ClassVar[frozenset[str]]  # annotations (`ufo.types.ANNOTATIONS`) that its data must have
    scores: ClassVar[tuple[str, ...]] = ("first",)  # what its `score` may be; several: it scores objects
    calibrated_for: ClassVar[tuple[str, ...]] = ("score",)  # the settings that its scores depend on

    image_size: int  # network input, pixels per side
    interpolation: str = "bilinear"  # how `predict` resizes, as the data of the training were
    antialias: bool = False
    max_length: int = 30  # tokens an answer may have
    grid_per_window: int = 0  # R of the R x R queries per window; 0: one answer per image
    num_beams: int = 1
    temperature: float = 1.0
    length_penalty: float = 1.0
    top_tokens: int = 1  # each query goes on from so many first tokens, other than the background's
    keep_queries: int = 0  # the best of them in an image that are decoded; 0: all
    constrained: bool = False  # only tokens that keep an answer well-formed
    causal_image: bool = False  # image tokens see only earlier ones (language models)
    score: str = "first"  # of an object, one of SCORES
    # the settings `calibrated_for` and {"points": see ufo.ops.monotone}; written by `ufo calibrate`
    calibration: dict[str, Any] | None = None
    wording: Wording = field(default=UFO_VIT, init=False, repr=False, compare=False)

    mask_tokens = 0  # `<MASK>` tokens of one mask; a setting of the tasks that answer with masks

    def __init_subclass__(cls) -> None:
        """Raises TypeError where a task with a name does not say what others ask it only after a training."""
        super().__init_subclass__()
        if not isinstance(vars(cls).get("name"), str):
            return
        where = f"the task {cls.__module__}.{cls.__qualname__}"
        stated = {key: value for part in reversed(cls.__mro__) for key, value in vars(part).items()}
        kind, needs = stated.get("kind"), stated.get("needs")
        if not isinstance(kind, Kind):
            raise TypeError(
                f"{where} has no `kind`; say what its result is, as kind: ClassVar[Kind] = Text()"
            )
        if needs is None or not needs <= ANNOTATIONS:
            known = ", ".join(sorted(ANNOTATIONS))
            raise TypeError(
                f"{where} has no `needs`, or others than there are; a frozenset of some of: {known}"
            )
        if isinstance(kind, Text) and kind.asks and not cls.needs_text:
            raise TypeError(f"{where} is asked with a text, as its kind says; set needs_text = True")

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this task again."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def worded(self: AnyTask, wording: Wording) -> AnyTask:
        """The same task in the words of another family of backbones; this one stays as it is."""
        other = copy.copy(self)
        other.wording = wording
        return other

    def check_mask_tokens(self) -> None:
        """Raises ValueError where a task with masks has tokens that form no square of sub-pixels."""
        try:
            plane_side(self.mask_tokens)
        except ValueError as error:
            raise ValueError(f"task '{self.name}': mask_tokens={self.mask_tokens}: {error}") from None

    # ---------------------------------------------------------------- what every task defines

    @abstractmethod
    def prompt(self, classes: Sequence[str], text: str, generator: torch.Generator | None = None) -> str:
        """The question about one image; with a generator one of the wordings of training."""

    @abstractmethod
    def supervise(self, batch: Batch, grid: Queries | None) -> Asked:
        """What a training batch is asked and should answer.

        A dense task chooses the trained queries of the full `grid [1, Q]`; other tasks are given None.
        """

    @abstractmethod
    def parse(self, answers: Answers) -> Prediction:
        """Read the answers to one image; what cannot be parsed is left out, never an error."""

    def read(self, answers: Answers) -> Prediction:
        """`parse`, and where the task is calibrated its scores as probabilities of being right."""
        found = self.parse(answers)
        if not self.calibration or found.scores is None:
            return found
        return replace(found, scores=apply_monotone(self.calibration["points"], found.scores))

    def certain(self, answers: Answers) -> Tensor:
        """What a score other than `first` says of up to n objects of each answer, float32 `[Q, n]`.

        Quality is the square of an expected IoU u: AP averages over thresholds from 0.5 to 0.95, of which u
        passes a share of about 2u - 0.9, and that falls as u^2 does near u = 0.9.
        """
        sure = given(answers.certainty, "certainties of tokens")(self.score)
        return sure.square() if self.score == "quality" else sure

    def read_under(self, answers: Answers) -> dict[str, Prediction]:
        """`parse` under each of the task's `scores`, and `calibrated` where it is."""
        found = {}
        for score in self.scores:
            other = copy.copy(self)
            other.score = score
            found[score] = other.parse(answers)
        return found | ({"calibrated": self.read(answers)} if self.calibration else {})

    # ---------------------------------------------------------------- how often answers are broken

    def well_formed(self, said: Said, classes: Sequence[str]) -> bool:
        """Whether an answer is what the task promises; by default any text that came to its end."""
        return bool(said.text.strip()) and not said.cut

    def evaluated(self, answers: Answers) -> Prediction:
        """`read`, and how many of the answers are not well-formed: most say the same, each is read once."""
        prediction = self.read(answers)
        said = Counter(answers.said)
        broken = (n for one, n in said.items() if not self.well_formed(one, answers.classes))
        prediction.answers, prediction.broken = len(answers.texts), sum(broken)
        return prediction

    # ---------------------------------------------------------------- asking

    def ask(self, batch: Batch, grid: Queries | None) -> Asked:
        """What a batch is asked at inference: all queries of the grid, in words that do not vary."""
        return Asked(self.prompts(batch), grid)

    def prompts(self, batch: Batch, training: bool = False) -> list[str]:
        """The question about each image; in `training` the wordings vary."""
        generator = batch_generator(batch, WORDING_STREAM) if training else None
        return [self.prompt(batch.classes, text, generator) for text in batch.texts]

    def listed_apart(self, classes: Sequence[str]) -> list[str]:
        """The names with commas that a prompt lists as several names; none where it asks for no classes."""
        several = [name for name in classes if "," in name]
        nothing = self.prompt([], "") if several else ""
        return [
            name for name in several if nothing != self.prompt([name], "") == self.prompt(name.split(","), "")
        ]

    # ---------------------------------------------------------------- what decoding may know of the answers

    def longest_answers(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The longest answer about each class, or about any expression, that must be said to its end.

        Empty: answers are free text.
        """
        return ()

    @property
    def objects_per_answer(self) -> int:
        """So many objects one answer may list."""
        return 1

    @property
    def largest_bin(self) -> int:
        """The largest number in the boxes that answers hold; 0: they hold none."""
        return 0

    @property
    def refusal(self) -> str:
        """An answer that is not chosen: decoding says how likely its first token is beside the best other."""
        return ""

    @property
    def drafts(self) -> tuple[str, ...]:
        """Whole answers that are likely: decoding checks such a guess instead of going token by token."""
        return ()

    @property
    def has_grammar(self) -> bool:
        """Whether answers can be `constrained`; otherwise they are free text."""
        return type(self).grammar is not Task.grammar

    def grammar(self, classes: Sequence[str]) -> tuple[Fields, ...]:
        """Well-formed answers: alternatives of fields, each of which is one of some texts.

        Raises ValueError where answers are free text.
        """
        raise ValueError(f"answers of task '{self.name}' are free text; leave constrained=false")


WORDING_STREAM = 0x5EEDED


def batch_generator(batch: Batch, stream: int = 0) -> torch.Generator:
    """All randomness of a batch's supervision follows from the seed that the mixer gave it.

    Generators of different streams are independent.
    """
    return torch.Generator().manual_seed(batch.seed ^ stream)  # torch looks at the lower 32 bits only
