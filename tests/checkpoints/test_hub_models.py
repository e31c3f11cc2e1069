"""Models on the hub, tested against a stand-in that keeps repositories in folders."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path

import huggingface_hub
import PIL.Image
import pytest
import torch
from commands import needs_weights
from tiny_mllm import make_mllm, outputs
from transformers import AutoModelForImageTextToText, AutoTokenizer

import ufo
from ufo.checkpoints import hub_models
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import check_start, initialise
from ufo.cli.main import main


class Hub:
    """What of huggingface_hub is used, as it behaves: repositories, uploads, snapshots."""

    def __init__(self, folder: Path):
        self.folder, self.asked, self.private = folder, [], {}

    def api(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        assert exist_ok
        if repo_id.startswith("others/"):
            raise PermissionError("403 Forbidden")
        self.private.setdefault(repo_id, private)
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
        repository = self.folder / repo_id
        for path in [p for p in repository.rglob("*") if p.is_file()]:
            if any(fnmatch.fnmatch(str(path.relative_to(repository)), p) for p in delete_patterns):
                path.unlink()
        shutil.copytree(folder_path, repository, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, revision, allow_patterns, local_files_only):
        self.asked.append((repo_id, revision))
        repository = self.folder / repo_id
        if not repository.is_dir():
            raise FileNotFoundError("404 Client Error: Repository Not Found")
        cache = self.folder / "cache" / repo_id
        for path in [p for p in repository.rglob("*") if p.is_file()]:
            name = str(path.relative_to(repository))
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(hub_models, "is_unreachable", lambda: False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fake


def photo(path: Path) -> Path:
    PIL.Image.new("RGB", (40, 30), (90, 120, 60)).save(path)
    return path


def test_what_is_pushed_is_what_is_loaded(make_model, hub, tmp_path):
    model = make_model()
    results = {"val/birds/detection/mAP50": 0.5, "val/birds/detection/mAP_large": None}
    address = model.push_to_hub(
        "me/birds",
        private=True,
        results=results,
        command="ufo evaluate ckpt=runs/birds",
        licence="apache-2.0",
        pictures=[photo(tmp_path / "bird.png")],
        token="secret",
    )
    assert address.endswith("me/birds") and hub.private == {"me/birds": True} and hub.token == "secret"
    again = ufo.load("me/birds")
    assert again.describe() == model.describe()
    ours = model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in again.state_dict().items())
    card = (hub.folder / "me" / "birds" / "README.md").read_text()
    for words in (
        'license: "apache-2.0"',
        "| val/birds/detection/mAP50 | 0.5000 |",
        "| val/birds/detection/mAP_large | - |",
        "ufo evaluate ckpt=runs/birds",
        'ufo.load("me/birds")',
        "pictures/1.jpg",
        *model.tasks,
        "red cat, owl, dog",
    ):
        assert words in card, words
    with PIL.Image.open(hub.folder / "me" / "birds" / "pictures" / "1.jpg") as picture:
        assert picture.width > 40
    assert "secret" not in card and str(tmp_path) not in card


def test_the_card_of_a_model_that_needs_words_asks_with_words(make_model, hub, tmp_path):
    model = make_model()
    model.tasks = {"grounding": model.tasks["grounding"]}
    model.push_to_hub("me/words")
    card = (hub.folder / "me" / "words" / "README.md").read_text()
    assert 'model.predict("scene.jpg", "grounding", text="...")' in card
    assert 'predict("scene.jpg").save' not in card and "calibrated" not in card
    with pytest.raises(CheckpointError, match="leave the pictures out"):
        model.push_to_hub("me/words", pictures=[photo(tmp_path / "bird.png")])


def test_the_card_says_which_scores_are_probabilities(make_model, hub):
    model = make_model()
    model.tasks["detection"].calibration = {"score": "first", "points": [[0.0, 0.0], [1.0, 0.5]]}
    model.push_to_hub("me/birds")
    card = (hub.folder / "me" / "birds" / "README.md").read_text()
    assert "calibrated on held-out data: detection." in card


def test_only_data_is_fetched(make_model, hub):
    make_model().push_to_hub("me/birds")
    (hub.folder / "me" / "birds" / "modeling.py").write_text("raise SystemExit")
    (hub.folder / "me" / "birds" / "model.bin").write_bytes(b"pickle")
    ufo.load("me/birds@v1.0")
    assert hub.asked == [("me/birds", "v1.0")]
    there = {p.name for p in (hub.folder / "cache" / "me" / "birds").iterdir()}
    assert there == {"config.json", "vocab.txt", "model.safetensors"}


def test_a_training_starts_from_a_name(make_model, hub):
    """`init=me/birds`: the weights of the repository, and nothing of it that runs."""
    pushed, model = make_model(seed=1), make_model(seed=2)
    pushed.push_to_hub("me/birds")
    (hub.folder / "me" / "birds" / "model.bin").write_bytes(b"pickle")
    check_start(model, "me/birds@v1.0")
    initialise(model, "me/birds@v1.0")
    assert hub.asked == [("me/birds", "v1.0")] * 2
    for one, other in zip(model.state_dict().values(), pushed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not list((hub.folder / "cache").rglob("*.bin"))
    with pytest.raises(
        CheckpointError, match=r"^init: 'me/nothing' is no path here, .*Repository Not Found"
    ) as said:
        check_start(model, "me/nothing")
    assert str(said.value).count("me/nothing") == 1


def test_so_does_a_language_model_of_this_project(hub):
    """Its folder is one of transformers, too; what counts is what it learned here."""
    pushed, model = make_mllm(seed=1), make_mllm(seed=2)
    pushed.push_to_hub("me/talks")
    check_start(model, "me/talks")
    initialise(model, "me/talks")
    assert torch.equal(outputs(model), outputs(pushed))


@needs_weights
def test_the_shipped_model_is_no_name_in_any_folder(hub):
    assert hub_models.hub_name("weights/ufo_vit_tiny_digits") is None
    assert ufo.load("weights/ufo_vit_tiny_digits").tasks and hub.asked == []


def test_an_older_push_leaves_nothing_behind(make_model, hub, tmp_path):
    model = make_model()
    model.push_to_hub("me/birds", pictures=[photo(tmp_path / "a.png")] * 2)
    (hub.folder / "me" / "birds" / "model-00001-of-00002.safetensors").write_bytes(b"old")
    model.push_to_hub("me/birds")
    there = {p.name for p in (hub.folder / "me" / "birds").rglob("*") if p.is_file()}
    assert there == {"config.json", "vocab.txt", "model.safetensors", "README.md"}
    card = (hub.folder / "me" / "birds" / "README.md").read_text()
    assert "No licence was named" in card and "None were given" in card


def test_a_language_model_is_one_of_transformers_there_too(family, hub):
    model = make_mllm(family)
    model.push_to_hub("me/talks")
    folder = hub.folder / "me" / "talks"
    net = AutoModelForImageTextToText.from_pretrained(folder)
    words = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([words("task : caption")["input_ids"]])
    said = net.generate(ids, max_new_tokens=4)
    assert said.shape[1] > ids.shape[1] and isinstance(words.decode(said[0]), str)
    assert torch.equal(outputs(ufo.load("me/talks")), outputs(model))


@pytest.mark.parametrize("name", ["birds", "me/birds/more", "../birds", "me/birds@v1", "me/"])
def test_names_that_are_none(make_model, hub, name):
    with pytest.raises(CheckpointError, match="no name on the hub"):
        make_model().push_to_hub(name)


def test_what_is_not_there_or_not_allowed(make_model, hub, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"'me/nothing' is no path here, .*Repository Not Found"
    ) as said:
        ufo.load("me/nothing")
    assert str(said.value).count("me/nothing") == 1
    with pytest.raises(CheckpointError, match=r"403 Forbidden.*HF_TOKEN"):
        make_model().push_to_hub("others/birds")
    assert not list(Path.cwd().iterdir())


def test_a_mistyped_path_is_no_name(hub):
    Path("runs").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint at 'runs/brids'"):
        ufo.load("runs/brids")
    assert hub.asked == [] and hub_models.hub_name(Path("me/birds")) is None


def test_a_name_in_a_file_is_not_followed(make_model, hub, tmp_path):
    """The base that a checkpoint names is looked for on this machine alone."""
    with pytest.raises(CheckpointError):
        from ufo.checkpoints.read import read

        read("me/birds")
    assert hub.asked == []


def test_without_a_connection_it_is_said_at_once(make_model, hub, monkeypatch):
    monkeypatch.setattr(hub_models, "is_unreachable", lambda: True)
    with pytest.raises(CheckpointError, match="cannot be reached; save_pretrained"):
        make_model().push_to_hub("me/birds")
    with pytest.raises(CheckpointError, match="nothing was downloaded before"):
        ufo.load("me/birds")


def test_a_lora_on_a_base_that_is_only_here_is_of_no_use(make_model, hub, tmp_path, monkeypatch):
    model = make_model()
    monkeypatch.setattr(hub_models, "has_adapters", lambda lora: True)
    model.backbone.base = {"name": str(tmp_path), "fingerprint": "x", "except": []}
    with pytest.raises(CheckpointError, match="ufo convert --merge"):
        model.push_to_hub("me/birds")


def test_the_command_takes_the_metrics_of_the_run(make_model, hub, tmp_path, capsys):
    from ufo.checkpoints.load import save

    run = save(make_model(), tmp_path / "run")
    (run / "results.json").write_text(json.dumps({"step": 3, "measured": {"val/x/detection/mAP": 0.25}}))
    command = ["train.py", f"paths.data={Path.home()}/data", "name=x y"]
    (run / "run.json").write_text(json.dumps({"command": command}))
    assert main(["push", str(run), "me/birds", "--licence", "cc-by-4.0", "--private"]) == 0
    card = (hub.folder / "me" / "birds" / "README.md").read_text()
    assert "0.2500" in card and "python train.py paths.data=~/data 'name=x y'" in card
    assert hub.private == {"me/birds": True} and "me/birds" in capsys.readouterr().out
    assert main(["push", str(run), "me/other", "--to", str(tmp_path / "seen")]) == 0
    assert (tmp_path / "seen" / "README.md").is_file() and not (hub.folder / "me" / "other").exists()
    assert main(["push", str(run), "me/birds", "--results", str(tmp_path / "none" / "results.json")]) == 1
    assert "holds no metrics" in capsys.readouterr().err
