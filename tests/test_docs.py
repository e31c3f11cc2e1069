"""The documents say what is there: commands compose, paths, options and keys exist, examples run.

Commands are those in fenced `bash` and `console` blocks of README.md, CONTRIBUTING.md and docs/; those that
train nothing are run by test_docs_commands.py. Who may know whom is read from the tables of
docs/architecture.md and compared with every import of the package.
"""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ufo.check import check_config
from ufo.command_line import settable

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
MADE_BY_TRAINING = ("weights/", "docs/assets/")  # in the repository once the digits model is trained
MADE_BY_RUNS = ("runs/", "data/", "demo/", ".venv")
RECORDED = {"slurm_sandbox_output.md"}  # what scripts/slurm_sandbox printed, commands included
WRITTEN_BY_RUNS = {"report.md", "results.md"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(language: str, document: Path) -> list[str]:
    """The fenced blocks of one language."""
    return [text for kind, text in FENCE.findall(document.read_text(encoding="utf-8")) if kind == language]


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def inline_code(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(document))


def named_blocks(document: Path) -> dict[str, str]:
    """Blocks that are a file: a comment in one of the first two lines, `# conf/task/x.yaml`, names it."""
    texts = [text for _, text in FENCE.findall(document.read_text(encoding="utf-8"))]
    heads = ["\n".join(text.splitlines()[:2]) for text in texts]
    names = [re.search(r"^# ((?:conf|ufo)/[\w/]+\.\w+)$", head, re.M) for head in heads]
    return {name[1]: text for name, text in zip(names, texts, strict=True) if name}


@functools.cache
def commands() -> list[tuple[str, list[str]]]:
    """(where, words) of every command line; a backslash continues a line, `#` starts a comment."""
    found = []
    for document in DOCUMENTS:
        for line in lines(document):
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # environment variables
                words = words[1:]
            if words:
                found.append((f"{document.name}: {line.strip()}", launched(words)))
    return found


def lines(document: Path) -> list[str]:
    """The lines of `bash` blocks, and those of `console` blocks that are typed: what follows is printed."""
    typed, shown = (
        [line for block in blocks(kind, document) for line in block.replace("\\\n", " ").splitlines()]
        for kind in ("bash", "console")
    )
    if document.name in RECORDED:
        return typed
    return typed + [line[2:] for line in shown if line.startswith("$ ")]


def launched(words: list[str]) -> list[str]:
    """What a launcher starts several times: `torchrun --nproc-per-node 8 train.py` is `python train.py`."""
    script = next((at for at, word in enumerate(words) if word.endswith(".py")), None)
    return words if words[0] not in ("srun", "torchrun") or script is None else ["python", *words[script:]]


def of_program(*programs: str) -> list:
    """The commands that start one of the programs, as parameters of a test.

    Those with a folder or a file of the user's need it: test_own_sources__compose, tests/own.
    """
    all_of_them = [
        (where, words)
        for where, words in commands()
        if "--config-dir" not in words and not (words[1:2] == ["train"] and words[2].endswith(".yaml"))
    ]
    chosen = [(where, words) for where, words in all_of_them if " ".join(words[:2]) in programs]
    return [pytest.param(words[2:], " ".join(words[:2]), id=where) for where, words in chosen]


def single_runs(arguments: list[str]) -> list[list[str]]:
    """The overrides of a sweep's (`-m key=a,b`) first and last run; without one, the arguments."""
    arguments = [a for a in arguments if a not in ("--cfg", "job", "-m", "--multirun", "--resolve")]
    # Hydra wants options that are numbers in quotes; train.py and evaluate.py add them
    arguments = [re.sub(r"^(resolution)=(\d+)$", r"\1='\2'", a) for a in arguments]
    parsed = OverridesParser.create().parse_overrides(arguments)
    swept = [i for i, o in enumerate(parsed) if o.is_sweep_override()]
    if not swept:
        return [arguments]
    runs = []
    for which in (0, -1):
        values = {i: swept_values(parsed[i])[which] for i in swept}
        keys = [o.get_key_element() for o in parsed]
        runs.append([f"{keys[i]}={values[i]}" if i in values else a for i, a in enumerate(arguments)])
    return runs


def swept_values(override: Override) -> list[str]:
    """What a swept override stands for; of an interval the ends."""
    if override.is_interval_sweep():
        interval = override.value()
        return [str(interval.start), str(interval.end)]
    return list(override.sweep_string_iterator())


def composed(arguments: list[str], name: str = "train", conf: Path = ROOT / "conf") -> DictConfig:
    """The config of a command with every interpolation resolved, as in a job of Hydra."""
    return _composed(tuple(arguments), name, conf)


@functools.cache
def _composed(arguments: tuple[str, ...], name: str, conf: Path) -> DictConfig:
    job = ["hydra.runtime.output_dir=/tmp/run", "hydra.runtime.cwd=/tmp", "hydra.job.num=0", "hydra.job.id=0"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose(name, overrides=[*settable(arguments), *job], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        plain = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
        OmegaConf.resolve(plain)
        return plain
    finally:
        HydraConfig.instance().cfg = None


# ---------------------------------------------------------------- commands


def test_documents__have_commands_of_every_kind():
    starts = {" ".join(words[:2]) for _, words in commands()}
    assert starts >= {"python train.py", "python evaluate.py", "ufo predict", "make demo", "make test"}


@pytest.mark.parametrize(
    ("arguments", "program"), of_program("python train.py", "python evaluate.py", "ufo train", "ufo evaluate")
)
def test_training_command__composes(arguments, program):
    name = program.split()[1].removesuffix(".py")
    for run in single_runs(arguments):
        cfg = composed(run, name)
        check_config(cfg)
        assert cfg.tasks and any(cfg.sources.values())


UFO_COMMANDS = (
    "predict",
    "export",
    "push",
    "score",
    "serve",
    "report",
    "config",
    "memory",
    "data",
    "demo",
    "calibrate",
    "convert",
    "sweep-report",
    "dashboard",
    "replay",
    "--help",
)
TRAINING = ("ufo train", "ufo evaluate")


@pytest.mark.parametrize(("arguments", "program"), of_program(*(f"ufo {name}" for name in UFO_COMMANDS)))
def test_ufo_command__parses(arguments, program, capsys):
    from ufo.cli.main import build_parser

    words = [program.split()[1], *arguments]
    if words == ["--help"]:
        return
    args = build_parser().parse_args(words)
    assert callable(args.run)


def test_make_targets__exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {words[1] for _, words in commands() if words[0] == "make"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_other_commands__are_known():
    """A command that no test here looks at would go stale without a word."""
    known = ("python", "ufo", "make", "tensorboard", "wandb", "pip", "cat", "sbatch")
    for where, words in commands():
        assert words[0] in known, where
        assert words[0] != "ufo" or " ".join(words[:2]) in TRAINING or words[1] in UFO_COMMANDS, where
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), where
        ours = [word for word in words if word.startswith(("conf/", "benchmarks/", "scripts/", "tests/"))]
        assert not [word for word in ours if not (ROOT / word).exists()], where
        if words[:2] == ["python", "-m"] and words[2].startswith("ufo."):
            importlib.import_module(words[2])


# ---------------------------------------------------------------- names


def mentioned_paths(document: Path) -> set[str]:
    """Paths inside of the repository: in backticks, and the targets of relative links."""
    first = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} | {"weights"}
    code = [c.removesuffix("/") for c in inline_code(document)]
    paths = {c for c in code if re.fullmatch(r"[\w./-]+", c) and "/" in c and c.split("/")[0] in first}
    files = {c for c in code if re.fullmatch(r"[\w-]+\.(py|md|toml)|Makefile|LICENSE", c)} - WRITTEN_BY_RUNS
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", document.read_text(encoding="utf-8"))
    here = document.parent.relative_to(ROOT)
    linked = {(ROOT / here / link).resolve().relative_to(ROOT).as_posix() for link in links}
    return {p for p in paths | linked if not p.startswith(MADE_BY_RUNS)} | {f"**/{f}" for f in files}


@functools.cache
def file_names() -> set[str]:
    """Names of the project's own files."""
    folders = [ROOT / f for f in ("ufo", "conf", "docs", "tests", "benchmarks") if (ROOT / f).is_dir()]
    inside = {path.name for folder in folders for path in folder.rglob("*.*")}
    return inside | {path.name for path in ROOT.iterdir()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_paths__exist(document):
    missing = []
    for path in sorted(mentioned_paths(document)):
        if path.startswith("**/"):
            missing += [] if path[3:] in file_names() else [path]
        elif not path.startswith(MADE_BY_TRAINING) and not (ROOT / path).exists():
            missing.append(path)
    assert not missing


def test_shipped_files__exist():
    """What only a finished training can put there; without any of it there is nothing to check yet."""
    if not any((ROOT / folder).is_dir() for folder in MADE_BY_TRAINING):
        pytest.skip("no trained digits model in the repository yet (weights/, docs/assets/)")
    everything = {p for d in DOCUMENTS for p in mentioned_paths(d) if p.startswith(MADE_BY_TRAINING)}
    assert everything
    assert not [p for p in sorted(everything) if not (ROOT / p).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_options__exist(document):
    """`resolution=1120` in a text names a file of conf/."""
    for code in inline_code(document):
        match = re.fullmatch(rf"\+?({'|'.join(GROUPS)})(?:@[\w.]+)?=([\w,]+)", code)
        for option in match[2].split(",") if match else ():
            if option == "NAME":  # the reader's own
                continue
            path = f"conf/{match[1]}/{option}.yaml"
            assert (ROOT / path).is_file() or path in named_blocks(document), code


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every key of the composed config of any experiment, dotted."""
    found: set[str] = set()

    def walk(value, path: str) -> None:
        found.add(path)
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))

    runs = [[f"experiment={p.stem}"] for p in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))]
    for arguments in [*runs, ["logger=wandb", "callbacks=[default,ema]"]]:
        walk(OmegaConf.to_container(composed(arguments)), "")
    return found


# in backticks, dotted: `trainer.max_steps`, `tasks.<task>.repeat=3`, `schedule.{warmup_steps, min_lr}`
KEY = re.compile(r"\+?((?:\w+|<\w+>)(?:\.(?:[\w@-]+|<\w+>|\{[\w, ]+\}))+)(?:=.*)?")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_keys__exist(document, keys):
    top = {key for key in keys if "." not in key and key}
    for code in inline_code(document):
        match = KEY.fullmatch(code)
        if not match or match[1].split(".")[0] not in top or match[1].endswith((".py", ".md", ".yaml")):
            continue
        *path, last = match[1].split(".", maxsplit=match[1].split("{")[0].count("."))
        if code.startswith("+"):  # a key that is only an argument's default: its parent is there
            path, last = path[:-1], path[-1]
        prefix = re.sub(r"<\w+>", "[^.]+", "".join(f"{part}[.]" for part in path))
        for name in last.strip("{}").split(", "):
            if is_argument(".".join([*path, name])):
                continue
            name = re.sub(r"<\w+>", "[^.]+", name)
            assert any(re.fullmatch(prefix + name, key) for key in keys), f"{code}: {name}"


def is_argument(key: str) -> bool:
    """Whether no yaml sets this key, but the code that its parent names takes it."""
    typed = f"{key.replace('<name>', 'detection')}=0"
    return settable([typed]) == [f"++{typed}"]


def test_experiments__are_listed():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert f"`{path.stem}`" in text, path.stem


def test_expected_numbers__are_those_of_the_experiments():
    """A row of the recipes' table that begins with an experiment's name holds all its numbers."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `(\w+)` \|.*$", text, re.M)}
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        cfg = composed([f"experiment={path.stem}"])
        numbers = [*(cfg.expected or {}).items(), *((cfg.released or {}).get("expected") or {}).items()]
        headline = [v for k, v in numbers if not k.endswith(("mAP50", "mAP75"))]
        for value in headline:
            assert f"{value * 100:.1f}" in rows[path.stem], (path.stem, value)


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_python_blocks__use_what_exists(document):
    for block in blocks("python", document):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ufo"):
                module = importlib.import_module(node.module)
                inner = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
                assert all(hasattr(module, a.name) or a.name in inner for a in node.names), block


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_yaml_and_json_blocks__parse(document):
    for language in ("yaml", "json"):
        for block in blocks(language, document):
            list(yaml.safe_load_all(block))


def test_own_data_example__composes(tmp_path):
    """The files that docs/data.md tells to add, in a copy of conf/."""
    files = named_blocks(ROOT / "docs" / "data.md")
    assert {"conf/dataset/birds.yaml", "conf/mixture/birds.yaml"} <= files.keys()
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for path, text in files.items():
        assert not (ROOT / path).exists(), path
        (tmp_path / path).write_text(text, encoding="utf-8")
    arguments = ["mixture=birds", "backbone=ufo_vit_base", "resolution='1120'", "init=sam"]
    cfg = composed(arguments, conf=tmp_path / "conf")
    check_config(cfg)
    trained = {key: source.task for key, source in cfg.sources.items() if source}
    assert set(trained.values()) == set(cfg.tasks)
    for source in cfg.sources.values():
        assert source.dataset.train.train is True


def test_own_sources__compose(tmp_path):
    """The folder that docs/your_data.md tells to make, with its commands."""
    document = ROOT / "docs" / "your_data.md"
    for block in blocks("yaml", document):
        if name := re.search(r"^# (mine/\S+)$", block, re.M):
            (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
    assert (tmp_path / "mine").is_dir()
    found = [words for _, words in commands() if "train.py" in words and "--config-dir" in words]
    checked: set[str] = set()
    for words in found:
        at = words.index("--config-dir")
        assert words[at + 1] == "mine"
        arguments = [*words[2:at], *words[at + 2 :], f"hydra.searchpath=[file://{tmp_path / 'mine'}]"]
        cfg = composed(single_runs(arguments)[0])
        check_config(cfg)
        asked = next(word for word in words if word.startswith("+source="))
        assert set(cfg.sources) >= set(re.findall(r"\w+", asked.partition("=")[2]))
        checked |= set(cfg.sources)
    assert checked >= {"birds", "land", "names"}
