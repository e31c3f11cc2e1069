"""What each family is asked, and what is understood of its answers, whatever it says."""

from __future__ import annotations

import pytest
import torch

from ufo.ops.names import find_class as class_of
from ufo.tasks.dense import DenseTask
from ufo.tasks.wording import INTERNVL, LLAVA, UFO_VIT, WORDINGS, Question
from ufo.types import Batch

MLLM = pytest.mark.parametrize("wording", [INTERNVL, LLAVA], ids=["internvl", "llava"])
EVERY = pytest.mark.parametrize("family", sorted(WORDINGS))


@EVERY
def test_every_family_has_words_for_every_task(family, task_name, make_tiny_task, make_batch):
    """A task asks for its words by name (`Wording.ask` names what is missing), or brings its own."""
    task, batch = make_tiny_task(task_name).worded(WORDINGS[family]), make_batch(task_name)
    prompts = task.prompts(batch)
    assert len(prompts) == len(batch) and all(prompts)
    if task.needs_text:
        assert all(batch.texts[0] in p for p in prompts)
    if isinstance(task, DenseTask):
        assert all("red cat,owl,dog" in p for p in prompts)


@EVERY
def test_names_with_commas_are_read_apart_and_answered_as_one(family, task_name, make_tiny_task):
    task, names = make_tiny_task(task_name).worded(WORDINGS[family]), ["bird, small", "bird", "owl"]
    asks_for_classes = task.prompt(["x"], "") != task.prompt([], "")
    assert task.listed_apart(names) == (["bird, small"] if asks_for_classes else [])
    assert class_of("bird, small,1,2,3,4", names) == (0, "1,2,3,4")
    assert class_of("bird,1,2,3,4", names) == (1, "1,2,3,4")


def test_texts_of_the_released_models():
    values = {"classes": "a,b", "num_bins": 896, "text": "the red box"}
    asked = {name: INTERNVL.ask(name, **values) for name in INTERNVL.questions}
    assert asked["detection"] == (
        "Detect objects in the image that belong to the following categories: a,b. "
        "The coordinate range is 0-896."
    )
    assert asked["grounding"] == "Where can we locate the red box in the image?"
    assert asked["referring_segmentation"].startswith("What is the red box in this image? Please output")
    assert asked["semantic_segmentation"].endswith("falling under (a,b) in this image.")
    assert LLAVA.ask("detection", **values) == "\n" + asked["detection"]
    assert LLAVA.ask("semantic_segmentation", **values) == asked["semantic_segmentation"]
    assert UFO_VIT.ask("detection", **values) == "Task: detection; Class: a,b,background; Bin: 0 to 896"


def test_braces_in_a_users_text_are_text():
    assert UFO_VIT.ask("grounding", text="{0} {text}") == "Task: grounding; Description: {0} {text}"


def test_unknown_questions_are_named():
    with pytest.raises(ValueError, match="no question 'depth', only caption"):
        UFO_VIT.ask("depth")


@MLLM
def test_training_draws_all_wordings_and_inference_the_last(wording):
    generator = torch.Generator().manual_seed(0)
    drawn = {wording.ask("grounding", generator, text="x") for _ in range(60)}
    assert len(drawn) == 4 and wording.ask("grounding", text="x") in drawn
    answers = {wording.write_mask(2, generator) for _ in range(60)}
    assert len(answers) == 5 and all("<MASK><MASK>" in a and a.endswith(".") for a in answers)
    assert Question("a").write(generator) == "a"


@EVERY
def test_boxes_are_read_as_written(family):
    wording = WORDINGS[family]
    assert wording.read_box(wording.write_box([1, 20, 300, 4])) == [1, 20, 300, 4]


@MLLM
@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("Sure: <box>1,2,3,4</box>.", [1, 2, 3, 4]),
        ("<box> 39,250,638,28,238,238 </box>", [39, 250, 638, 28]),
        ("<box>1.,2,3 1,4.</box>", [1, 2, 31, 4]),
        ("<box>1,2,3,4</box>;<box>5,6,7,8</box>", [1, 2, 3, 4]),
        ("<box>1,2,3,4", None),  # cut off: the last number may lack digits
        ("1,2,3,4</box>", None),
        ("<box>1,2,3</box>", None),
        ("<box>a,b,c,d</box>", None),
        ("<box></box>", None),
        ("", None),
    ],
)
def test_boxes_in_tags(wording, text, box):
    assert wording.read_box(text) == box


CLASSES = ("owl", "Hot Dog", "dog, big", "dog", "t-shirt", "aerosol_can", "Apple", "apple")


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    [
        ("owl,1,2", "owl", "1,2"),
        ("hot dog,<MASK>", "Hot Dog", "<MASK>"),
        ("dog,big,<MASK>", "dog, big", "<MASK>"),
        ("Dog , Big,<MASK>", "dog, big", "<MASK>"),
        ("dog,<MASK>", "dog", "<MASK>"),
        ("t - shirt,1", "t-shirt", "1"),
        ("aerosol _ can,1", "aerosol_can", "1"),
        ("Apple,1", "Apple", "1"),
        ("apple,1", "apple", "1"),
        ("dog", "dog", ""),
    ],
)
def test_class_names_with_capitals_commas_and_blanks(text, name, rest):
    index, found = class_of(text, CLASSES)
    assert CLASSES[index] == name and found == rest


@pytest.mark.parametrize("text", ["", ",", "ow", "owl<MASK>", "background"])
def test_other_names_are_no_class(text):
    assert class_of(text, CLASSES)[0] == -1


def test_classes_asked_for_are_those_present_and_some_others(dense_task, make_tiny_task, make_batch):
    from ufo.ops.grid import query_grid

    task = make_tiny_task(dense_task, class_sampling=1.0, negatives=2)
    batch = make_batch(dense_task, (1, 3))
    batch.classes = (*batch.classes, *(f"class {i}" for i in range(20)))
    made = task.supervise(batch, query_grid(2, 2, 2))
    assert [len(names) for names in made.classes] == [3, 9]
    for names, labels in zip(made.classes, batch.labels, strict=True):
        assert {batch.classes[j] for j in labels.tolist()} <= set(names) <= set(batch.classes)
        assert len(set(names)) == len(names)
    prompts = made.prompts
    assert all(",".join(names) in p for names, p in zip(made.classes, prompts, strict=True))
    assert task.prompts(batch) == [task.prompt(batch.classes, "")] * 2


def test_no_class_sampling_leaves_the_supervision_as_it_was(dense_task, make_tiny_task, make_batch):
    from ufo.ops.grid import query_grid

    grid, batch = query_grid(2, 2, 2), make_batch(dense_task)
    whole = make_tiny_task(dense_task).supervise(batch, grid)
    sampled = make_tiny_task(dense_task, class_sampling=0.5).supervise(batch, grid)
    assert whole.classes is None and whole.answers == sampled.answers


def test_wording_is_no_setting(task_name, make_tiny_task):
    task = make_tiny_task(task_name)
    other = task.worded(LLAVA)
    assert other.wording is LLAVA and task.wording is UFO_VIT  # a model changes no task that it is given
    assert "wording" not in other.settings and other == task


def test_question_and_answer_are_drawn_apart(make_tiny_task, make_batch):
    """Else every wording of a question would always come with the same wording of the answer."""
    task = make_tiny_task("referring_segmentation").worded(INTERNVL)
    batch, pairs = make_batch("referring_segmentation", (1,)), set()
    for batch.seed in range(120):
        made = task.supervise(batch, None)
        pairs.add((made.prompts[0], made.answers[0]))
    assert len(pairs) == 3 * 5


def test_a_batch_is_asked_the_same_again(make_tiny_task, make_batch):
    task = make_tiny_task("grounding").worded(INTERNVL)
    batch = make_batch("grounding", (1, 1, 1, 1))
    assert task.supervise(batch, None).prompts == task.supervise(batch, None).prompts
    assert len(set(task.prompts(batch))) == 1


def test_batch_knows_sentences_and_texts_tell_where_it_does_not(make_tiny_task, make_batch):
    task = make_tiny_task("reasoning_segmentation").worded(INTERNVL)
    batch: Batch = make_batch("reasoning_segmentation", (1, 1))
    batch.texts = ["Where do I sit?", "the Seat"]
    sentence, phrase = "Where do I sit? Please output", "What is the seat in this image? Please output"
    assert [p.startswith(x) for p, x in zip(task.prompts(batch), (sentence, phrase), strict=True)] == [
        True
    ] * 2
    batch.sentences = [False, True]
    assert task.prompts(batch)[1].startswith("the Seat Please output")
    assert task.prompts(batch)[0].startswith("What is where do i sit?")
