"""Free questions, and what public evaluators call: records in GQA's form through both interfaces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from tiny_mllm import FAMILIES, make_mllm

from ufo.chat import read_messages
from ufo.evaluators import LmmsEval, VLMEval
from ufo.model import UFO

ROOT = Path(__file__).parents[1]
ASK = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> UFO:
    return make_mllm(request.param)


@pytest.fixture(scope="module")
def pictures() -> list[PIL.Image.Image]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (4, 40, 60, 3), generator=generator).byte().numpy()
    return [PIL.Image.fromarray(pixels) for pixels in noise]


def heard(model: UFO, monkeypatch, *arguments, **named) -> tuple[str, str]:
    """The prompt that the model reads as text, and what it answers."""
    seen = []
    plain = type(model.tokenizer).encode_prompts

    def encode_prompts(words, prompts):
        seen.extend(prompts)
        return plain(words, prompts)

    monkeypatch.setattr(type(model.tokenizer), "encode_prompts", encode_prompts)
    answer = model.chat(*arguments, **named)
    return seen[0], answer


# ---------------------------------------------------------------- chat


def test_a_question_is_asked_as_in_training(model, pictures, monkeypatch):
    model.train()
    prompt, answer = heard(model, monkeypatch, pictures[0], "Which cat?", max_length=5)
    assert prompt == model.backbone.chat("<image>\nWhich cat?").rstrip(" ")  # it begins the answer
    assert answer and answer == answer.strip()
    assert model.training and not model.eval().training
    assert model.chat(pictures[0], "Which cat?", max_length=5) == answer
    assert model.chat(pictures[0], "Which cat?", max_length=1) != model.chat(pictures[0], "Which cat?", 9)


def test_a_conversation_is_the_text_that_training_learns(model, pictures, monkeypatch):
    words, backbone = model.tokenizer, model.backbone
    said = [("user", "cat?"), ("assistant", "owl"), ("user", "the image?")]
    messages = [{"role": role, "content": text} for role, text in said]
    prompt, _ = heard(model, monkeypatch, pictures[0], messages, max_length=3)
    whole = backbone.chat("<image>\ncat?") + "owl" + words.end + backbone.follow_up("the image?")
    assert prompt == whole.rstrip(" ")
    before = backbone.system
    system = [{"role": "system", "content": "Be brief."}, *messages]
    prompt, _ = heard(model, monkeypatch, pictures[0], system, max_length=3)
    assert "Be brief." in prompt and before not in prompt and backbone.system == before


def test_the_image_stands_where_the_message_has_it(model, pictures, monkeypatch):
    parts = [{"type": "text", "text": "cat?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [{"role": "user", "content": parts}]
    prompt, _ = heard(model, monkeypatch, pictures[0], messages, max_length=2)
    assert prompt == model.backbone.chat("cat?\n<image>").rstrip(" ")


def test_a_ufo_vit_has_no_free_text(make_model, pictures):
    with pytest.raises(ValueError, match=r"UFOViT has no free text to chat in; .*predict") as error:
        make_model().chat(pictures[0], "Which cat?")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "messages, said",
    [
        ([], "the last message must be the user"),
        ({"role": "user", "content": "x"}, "messages are a question, or a list like"),
        (["What is it?"], "messages are a question, or a list like"),
        ([{"role": "assistant", "content": "x"}], "must take turns"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "the last message"),
        ([{"role": "user", "content": "<image> or <image>"}], "about one image"),
        ([{"role": "user", "content": [{"type": "video"}]}], "kind 'video'"),
        ([{"role": "user", "content": None}], "a text or a list of parts"),
    ],
)
def test_messages_that_are_no_conversation(messages, said):
    with pytest.raises(ValueError, match=said):
        read_messages(messages)


# ---------------------------------------------------------------- a benchmark


@dataclass
class Request:
    """As the evaluator makes them."""

    args: tuple[Any, ...]


def exact(answer: str, truth: str) -> bool:
    """GQA's exact match: case and punctuation do not count."""
    plain = lambda text: re.sub(r"[^\w\s]", "", text.lower()).strip()  # noqa: E731
    return plain(answer) == plain(truth)


@pytest.fixture
def records(model, pictures, tmp_path):
    """A jsonl of questions; the model says what half of them expect."""
    lines = []
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
        said = model.chat(tmp_path / f"{i}.png", f"Is {i} a cat?{ASK}", max_length=4)
        truth = said.upper() + "." if i % 2 else "neither"
        lines.append({"imageId": f"{i}.png", "question": f"Is {i} a cat?", "answer": truth})
    path = tmp_path / "gqa.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def test_records_through_lmms_eval(model, records):
    path, docs = records

    def doc_to_messages(doc):
        image = {"type": "image", "url": PIL.Image.open(path.parent / doc["imageId"])}
        return [{"role": "user", "content": [image, {"type": "text", "text": doc["question"] + ASK}]}]

    evaluated = LmmsEval(model)
    evaluated.task_dict = {"gqa": {"testdev": docs}}
    generation = {"max_new_tokens": 4, "do_sample": False, "until": ["\n\n"]}
    requests = [Request(("", doc_to_messages, generation, i, "gqa", "testdev")) for i in range(len(docs))]
    answers = evaluated.generate_until(requests)
    assert sum(exact(a, d["answer"]) for a, d in zip(answers, docs, strict=True)) == 2
    with pytest.raises(NotImplementedError, match="generate_until"):
        evaluated.loglikelihood(requests)
    two = lambda doc: [{"role": "user", "content": doc_to_messages(doc)[0]["content"][:1] * 2}]  # noqa: E731
    with pytest.raises(ValueError, match="2 images"):
        evaluated.generate_until([Request(("", two, {}, 0, "gqa", "testdev"))])


def test_records_through_vlmevalkit(model, records):
    path, docs = records
    evaluated = VLMEval(model, max_new_tokens=4)
    right = 0
    for doc in docs:
        image = {"type": "image", "value": str(path.parent / doc["imageId"])}
        message = [image, {"type": "text", "value": doc["question"] + ASK}]
        right += exact(evaluated.generate(message, dataset="GQA"), doc["answer"])
    assert right == 2
    with pytest.raises(ValueError, match="no option 'beams'"):
        VLMEval(model, beams=3)


TASK = """dataset_path: json
dataset_kwargs: {data_files: {testdev: RECORDS}}
task: gqa_few
test_split: testdev
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
metadata: [{version: 0.0}]
lmms_eval_specific_kwargs: {default: {pre_prompt: "", post_prompt: POST}}
"""
READING = """from PIL import Image
def doc_to_visual(doc): return [Image.open(doc["imageId"]).convert("RGB")]
def doc_to_text(doc, said): return said["pre_prompt"] + doc["question"] + said["post_prompt"]
"""


@pytest.mark.slow
def test_the_file_of_the_documents_runs_in_lmms_eval(records, model, tmp_path):
    """The evaluator itself, where it is installed: its task manager, its messages, its score."""
    pytest.importorskip("lmms_eval")
    from ufo.checkpoints.load import save

    path, docs = records
    for doc in docs:
        doc["imageId"] = str(tmp_path / doc["imageId"])
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    save(model, tmp_path / "model")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    task = TASK.replace("RECORDS", str(path)).replace("POST", json.dumps(ASK))
    (tasks / "gqa_few.yaml").write_text(task)
    (tasks / "utils.py").write_text(READING)
    text = (ROOT / "docs" / "evaluators.md").read_text(encoding="utf-8")
    code = text.split("```python\n# evaluate_ufo.py\n")[1].split("```")[0]
    (tmp_path / "evaluate_ufo.py").write_text(code)
    words = ["--model", "ufo", "--model_args", f"pretrained={tmp_path / 'model'}", "--tasks", "gqa_few"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "evaluate_ufo.py", *words, "--include_path", str(tasks), "--batch_size", "1"],
        cwd=tmp_path,
        env={**os.environ, **offline, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    found = re.search(r"\|exact_match\|[^|]*\|\s*([\d.]+)\|", done.stdout)
    assert found and float(found[1]) == 0.5, done.stdout + done.stderr
