"""Every released file in miniature, read by `convert`, `predict`, `init`, `evaluate`; wrong ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
import torch
from commands import compose, run
from official_files import write_official
from omegaconf import DictConfig, OmegaConf
from released_files import TWINS, Twin, shrink, vit_words, write_base, write_twin
from safetensors.torch import load_file
from sharing import shared
from tokenizer_folders import train_pieces

import ufo as package
from ufo import build
from ufo.check.data import check_paths
from ufo.checkpoints import recipes, released_vit
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import initialise, load
from ufo.cli.main import main
from ufo.data.errors import DataError

pytestmark = pytest.mark.heavy

NAMES = {twin.name: twin for twin in TWINS}


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> dict[bool, bytes]:
    return {blank: train_pieces(tmp_path_factory.mktemp("spm"), blank) for blank in (False, True)}


class Place:
    """A twin on disk, with its base."""

    def __init__(self, twin: Twin, folder: Path, pieces: dict[bool, bytes]) -> None:
        self.twin, self.folder = twin, folder
        self.path, self.base = write_twin(twin, folder, pieces)
        self.words = self.base or (folder if twin.family == "ufo_vit" else self.path)
        # a whole model needs no weights of its base, only the tokenizer
        self.under = self.base if twin.layout == "partial" else None

    def small(self, cfg: DictConfig) -> DictConfig:
        return shrink(self.twin, cfg, self.words)


@pytest.fixture
def place(request, tmp_path, pieces, monkeypatch) -> Place:
    """The twin that the test names, and recipes of its size."""
    placed = Place(NAMES[request.param], tmp_path / "released", pieces)
    plain = recipes.compose
    monkeypatch.setattr(recipes, "compose", lambda overrides: placed.small(plain(overrides)))
    monkeypatch.setattr(released_vit, "SIZES", {16: "b"})
    return placed


def twins(*names: str):
    """The named ones, or all, which are many and slow."""
    every = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
    return pytest.mark.parametrize("place", names or every, indirect=True)


# ---------------------------------------------------------------- what reads them


@twins()
def test_convert_and_predict(place, capsys):
    """The name tells the experiment; converted or not, the same weights, tokenizer and answers."""
    out = place.folder / "out"
    base = ["--base", str(place.under)] if place.under else []
    assert main(["convert", str(place.path), str(out), *base]) == 0, capsys.readouterr().err
    converted, direct = package.load(out), package.load(place.path, base=place.under)
    ours = converted.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in direct.state_dict().items())
    expected = {name for name, task in compose_small(place).tasks.items() if task}
    assert set(converted.tasks) == set(direct.tasks) == expected
    assert converted.tokenizer.vocab == direct.tokenizer.vocab
    if place.twin.family != "ufo_vit":
        mask = converted.tokenizer.mask_id
        assert mask == len(converted.tokenizer) - (5 if place.twin.family == "llava" else 1)
    task = min(expected, key=lambda name: (converted.tasks[name].grid_per_window, name))  # one answer
    image = PIL.Image.new("RGB", (50, 37), "red")
    for model in (converted, direct):
        model.tasks[task].max_length, model.tasks[task].num_beams = 3, 1
    answers = [m.predict(image, task, "the cat", ["cat", "dog"]) for m in (converted, direct)]
    assert answers[0].task == task and answers[0].text == answers[1].text
    if answers[0].scores is not None:
        assert torch.equal(answers[0].scores, answers[1].scores)


def compose_small(place: Place) -> DictConfig:
    cfg = compose(f"experiment={place.twin.experiment}")
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return place.small(cfg)


@twins()
def test_init(place):
    """A training of its own experiment starts from it: all weights are the file's, a LoRA goes on."""
    cfg = compose_small(place)
    if place.twin.family == "ufo_vit":
        cfg.backbone.tokenizer.mask_token = place.twin.mask
    model = build.build_model(cfg)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    file = {"file": str(place.path), "base": str(place.under)} if place.under else str(place.path)
    initialise(model, file)
    expected = package.load(place.path, base=place.under)
    after = model.state_dict()
    if place.under:
        assert any(".lora_" in k and not torch.equal(v, before[k]) for k, v in after.items())
        assert model.backbone.base["name"].endswith(place.twin.name)
        return
    for name, value in expected.state_dict().items():
        ours = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(ours, value.to(ours.dtype)), name


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> Path:
    return shared(tmp_path_factory, "official", write_official)


def has_data(options: dict | None) -> bool:
    """Whether the miniatures of the data sets have a split of these options."""
    if not options or options.get("split", "val") not in ("val", "train"):
        return False
    try:
        check_paths(options)
    except DataError:
        return False
    return True


@pytest.mark.slow
@twins()
def test_evaluate(place, official, tmp_path, capsys):
    """On the data of its experiment that are here, with the number beside it that it was released with."""
    cfg = compose_small(place)
    cfg.paths.data = str(official)
    there, sizes = [], []
    for key, source in cfg.sources.items():
        if source and has_data(OmegaConf.to_container(source.dataset, resolve=True).get("val")):
            there.append(source)
            sizes.append(f"sources.{key}.weight=1")  # those for evaluation only have none
        else:
            sizes.append(f"sources.{key}=null")
    assert there
    sizes += [f"resolution.{task}={size}" for task, size in cfg.resolution.items() if task != "bins"]
    quick = [f"tasks.{source.task}.max_length=3" for source in there]
    quick += [f"tasks.{source.task}.num_beams=1" for source in there]
    quick += ["num_workers=0", "trainer.accelerator=cpu", "trainer.devices=1", "logger=none"]
    quick.append("trainer.limit_val_batches=1")
    for watcher in ("pictures", "worst"):
        quick += [f"++callbacks.{watcher}.num_images=1", f"++callbacks.{watcher}.max_side=64"]
    base = [f"base={place.under}"] if place.under else []
    renamed = place.path.rename(place.path.with_name("renamed" + place.path.suffix))
    overrides = [f"ckpt={renamed}", *base, f"experiment={place.twin.experiment}", f"paths.data={official}"]
    run("evaluate.py", *overrides, *sizes, *quick, out=tmp_path / "run")
    said = capsys.readouterr().out
    assert all(source.name in said for source in there)


# ---------------------------------------------------------------- wrong ones


def refused(place: Place, said: str, base: Path | None = None) -> None:
    """Every reader says one sentence."""
    under = base or place.under
    with pytest.raises(CheckpointError, match=said) as error:
        load(place.path, base=under)
    assert "\n" not in str(error.value)
    if place.twin.family == "ufo_vit":
        return
    model = build.build_model(compose_small(place))
    file = {"file": str(place.path), "base": str(under)} if under else str(place.path)
    with pytest.raises(CheckpointError, match=said):
        initialise(model, file)


@twins("ufo-internvl2-8b-multi-448", "UFO-InternVL2-8B-rec-ft")
def test_a_missing_shard(place):
    gone = sorted(p for p in place.path.iterdir() if "00002-of" in p.name)[0]
    gone.unlink()
    refused(place, f"lacks the shard {gone.name}")


@twins("ufo-internvl2-8b-rec.pth", "ufo-llava-1.5-7b-res.pth", "ufo-vit-b-multi.pth")
def test_a_key_too_many(place):
    content = torch.load(place.path)
    state = content.get("state_dict", content)
    before = "backbone.language_model." if place.twin.family != "ufo_vit" else "backbone."
    state[f"{before}strange.weight"] = torch.zeros(2)
    torch.save(content, place.path)
    refused(place, r"1 unmapped keys \(.*strange")


@twins("ufo-internvl2-8b-rec.pth", "ufo-llava-1.5-7b-rec.pth")
def test_a_lora_over_another_base(place, tmp_path, pieces):
    """The other family's, or one of another size: its factors have no weights that they fit."""
    other = "llava" if place.twin.family == "internvl" else "internvl"
    write_twin(next(t for t in TWINS if t.family == other and t.layout == "partial"), tmp_path / "o", pieces)
    base = tmp_path / "o" / ("llava-1.5-7b-hf" if other == "llava" else "InternVL2-8B")
    refused(place, "is a llava|unmapped|factors", base)
    write_base(place.twin.family, base, 300, layers=1)
    refused(place, "is a llava|unmapped|factors|layers|of another", base)


@twins("ufo-internvl2-8b-rec.pth", "ufo-llava-1.5-7b-rec.pth")
def test_a_partial_lora_without_its_base(place):
    with pytest.raises(CheckpointError, match="holds only what its LoRA trained"):
        load(place.path)


@twins("ufo-internvl2-8b-rec.pth", "UFO-InternVL2-8B-rec-ft", "ufo-vit-b-multi.pth")
def test_the_tokenizer_of_another_model(place):
    if place.twin.family == "ufo_vit":
        vit_words(NAMES["ufo-vit-b-multi.pth"], place.folder)
        with open(place.folder / "vocab.txt", "a") as file:
            file.write("quokka\ngnu\n")  # one more could be <MASK>, which a vocabulary may lack
    else:
        config = json.loads((place.words / "tokenizer_config.json").read_text())
        new = {str(max(map(int, config["added_tokens_decoder"])) + 1): {"content": "<zebra>"}}
        config["added_tokens_decoder"] |= new
        (place.words / "tokenizer_config.json").write_text(json.dumps(config))
        (place.words / "added_tokens.json").unlink()
    with pytest.raises(CheckpointError, match=r"knows \d+ tokens and the (tokenizer|vocabulary)"):
        load(place.path, base=place.under)


@twins("ufo-internvl2-8b-rec.pth")
def test_a_renamed_file_says_what_to_add(place):
    renamed = place.path.rename(place.folder / "mine.pth")
    with pytest.raises(CheckpointError, match=r"add experiment=NAME \(ufo convert, evaluate.py"):
        load(renamed, base=place.under)
    model = load(renamed, base=place.under, experiment="internvl2_8b_grounding")
    assert list(model.tasks) == ["grounding"]


# ---------------------------------------------------------------- 16 and 32 bits


def types(state: dict[str, torch.Tensor]) -> set[torch.dtype]:
    return {value.dtype for value in state.values() if value.is_floating_point()}


@twins("UFO-InternVL2-8B-rec-ft")
def test_a_file_of_16_bits_stays_one_and_is_trained_in_32(place):
    """Loaded and converted it has the file's type; a training starts with its very values in float32."""
    released = load(place.path)
    assert types(released.state_dict()) == {torch.bfloat16}
    assert main(["convert", str(place.path), str(place.folder / "out")]) == 0
    assert types(load_file(place.folder / "out" / "model.safetensors")) == {torch.bfloat16}
    assert load(place.folder / "out").describe()["backbone"]["dtype"] == "bfloat16"
    cfg = compose_small(place)
    cfg.lora = compose("lora=full").lora
    model = build.build_model(cfg)
    initialise(model, str(place.path))
    assert types(model.state_dict()) == {torch.float32}
    assert all(torch.equal(v, released.state_dict()[k].float()) for k, v in model.state_dict().items())


@twins("ufo-internvl2-8b-rec.pth")
def test_a_lora_of_32_bits_over_a_base_of_16(place):
    """Merged it has the base's type; going on, what was trained keeps every bit."""
    file, head = torch.load(place.path), "backbone.net.lm_head.weight"
    theirs = file["backbone.language_model.base_model.model.output.weight"]
    assert theirs.dtype == torch.float32
    merged = load(place.path, base=place.under)
    assert types(merged.state_dict()) == {torch.bfloat16}
    assert torch.equal(merged.state_dict()[head], theirs.bfloat16())
    model = build.build_model(compose_small(place))
    initialise(model, {"file": str(place.path), "base": str(place.under)})
    state = model.state_dict()
    assert types(state) == {torch.float32}
    assert torch.equal(state[head], theirs)
    factors = [v for k, v in file.items() if k.endswith("attention.wo.lora_A.default.weight")]
    assert any(
        torch.equal(factors[0], v) for k, v in state.items() if k.endswith("o_proj.lora_A.default.weight")
    )


@twins("ufo-internvl2-8b-multi-448")
def test_what_deepspeed_joined_stays_32_bits(place):
    assert types(load(place.path).state_dict()) == {torch.float32}
