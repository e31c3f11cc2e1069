"""`ufo` itself: it starts fast, finds its commands, and says expected errors in one sentence."""

import argparse
import contextlib
import io
import json
import subprocess
import sys

import pytest

import ufo.cli.main as command_line
from ufo.cli import CommandError
from ufo.data.errors import DataError
from ufo.tasks import task_class, task_names


def test_help_lists_commands_without_torch():
    code = (
        "import sys; from ufo.cli.main import build_parser; help = build_parser().format_help();"
        "import json; print(json.dumps([help, 'torch' in sys.modules, 'numpy' in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    text, *heavy = json.loads(answer.stdout)
    assert heavy == [False, False]
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    helps = {words[0]: words[1] for words in lines if len(words) == 2}
    assert {"predict", "data"} <= helps.keys()
    assert not {"main", "results", "files"} & helps.keys()


def test_what_predict_needs_is_said_before_torch_is_loaded():
    code = (
        "import contextlib, io, json, sys; from ufo.cli.main import main; said = []\n"
        "for argv in (['predict', '--help'], ['predict', 'a.jpg']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):\n"
        "        with contextlib.suppress(SystemExit): main(argv)\n"
        "    said.append(' '.join(out.getvalue().split()))\n"
        "print(json.dumps([*said, 'torch' in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    text, missing, heavy = json.loads(answer.stdout)
    ours = [name for name in task_names() if task_class(name).__module__.startswith("ufo.tasks.")]
    assert ", ".join(ours) in text and missing.endswith("required: --ckpt") and not heavy


def test_no_command_shows_help(ufo):
    answer = ufo()
    assert answer.code == 2
    assert answer.out[0].startswith("usage: ufo")


def test_unknown_command(ufo):
    answer = ufo("detekt")
    assert answer.code == 2
    assert "detekt" in answer.err[-1] and "predict" in answer.err[-1]


@pytest.fixture
def raising(monkeypatch):
    """Let the command `data digits` end with an error."""

    def use(error):
        def run(args):
            raise error

        monkeypatch.setattr("ufo.cli.data.run", run)

    return use


ARGUMENTS = ("data", "digits", "--out", "x", "--train", "0", "--val", "0")


@pytest.mark.parametrize("error", [CommandError("say a\n b"), DataError("say a b"), OSError("say a b")])
def test_expected_errors_are_one_line(ufo, raising, error):
    raising(error)
    answer = ufo(*ARGUMENTS)
    assert (answer.code, answer.err) == (1, ["error: say a b"])


def test_traceback_on_request(ufo, raising, monkeypatch):
    raising(CommandError("say"))
    monkeypatch.setenv(command_line.TRACEBACK, "1")
    with pytest.raises(CommandError):
        ufo(*ARGUMENTS)


def test_bugs_are_not_hidden(ufo, raising):
    raising(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        ufo(*ARGUMENTS)


def test_interrupt(ufo, raising):
    raising(KeyboardInterrupt())
    answer = ufo(*ARGUMENTS)
    assert (answer.code, answer.err) == (130, ["interrupted"])


def test_data_digits(ufo, tmp_path):
    out = tmp_path / "scenes"
    options = ("--train", 1, "--val", 2, "--variant", "shifted", "--size", 64)
    assert ufo("data", "digits", "--out", out, *options).code == 0
    assert len(list((out / "val" / "images").iterdir())) == 2
    assert json.loads((out / "scenes.json").read_text())["variant"] == "shifted"
    answer = ufo("data", "digits", "--out", out, "--train", 1, "--val", 2, "--variant", "odd")
    assert answer.code == 1
    assert "odd" in answer.err[-1] and "standard" in answer.err[-1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("data", "chek", "x"), "there is no command 'chek'; did you mean 'check'?"),
        (("predicct", "x"), "there is no command 'predicct'; did you mean 'predict'?"),
        (("data", "show", "x", "--split", "vall"), "there is no choice 'vall'; did you mean 'val'?"),
        (("data", "list", "--task", "detektion"), "did you mean 'detection'?"),
        (("predict", "a.jpg", "--chkpt", "x"), "there is no option --chkpt; did you mean '--ckpt'?"),
        (("predict", "a.jpg", "--checkpont=x"), "there is no option --checkpont; did you mean '--ckpt'?"),
        (("score", "a.json", "--agianst", "b.json"), "did you mean '--against'?"),
        (("data", "check", "x", "--decoed"), "there is no option --decoed; did you mean '--decode'?"),
        (("--vesion",), "there is no option --vesion; did you mean '--version'?"),
        (("predict", "a.jpg", "-ckpt", "x"), "there is no option -ckpt; did you mean '--ckpt'?"),
    ],
)
def test_the_nearest_name_is_said(ufo, words, hint):
    answer = ufo(*words)
    assert answer.code in (1, 2) and hint in answer.err[-1]


def test_every_command_names_the_nearest_option():
    """Also one that argparse would not come to, as it says first which needed option is not there."""
    pending, leaves = [command_line.build_parser()], 0
    while pending:
        parser = pending.pop()
        groups = [a.choices.values() for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        pending += [part for group in groups for part in group]
        for option in (o for o in parser._option_string_actions if len(o) > 6 and not groups):
            leaves += 1
            misspelt = f"{option[:4]}{option[5]}{option[4]}{option[6:]}s"
            with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as said:
                parser.parse_known_args([misspelt])
            assert f"there is no option {misspelt}; did you mean '--" in said.getvalue(), parser.prog
    assert leaves > 50


def test_short_options_numbers_and_beginnings_of_options_are_none_that_are_misspelt():
    parser = command_line.Parser()
    parser.add_argument("-n", type=int)
    parser.add_argument("--ckpt")
    parser.add_argument("words", nargs="*")
    found = parser.parse_args(["-n3", "--ck", "a", "-5", "x"])
    assert (found.n, found.ckpt, found.words) == (3, "a", ["-5", "x"])
    assert parser.parse_args(["--", "--chkpt"]).words == ["--chkpt"]


@pytest.mark.parametrize(
    "words",
    [
        ("data", "show", "digits_instances", "-n", "-3"),
        ("data", "show", "digits_instances", "-n", "0"),
        ("data", "mix", "experiment=digits", "--steps", "-5"),
        ("data", "mix", "experiment=digits", "--devices", "1.5"),
        ("demo", "--batches", "none"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_read(ufo, words):
    answer = ufo(*words)
    assert answer.code == 2 and f"'{words[-1]}' is not a whole number from 1 on" in answer.err[-1]


def test_the_nearest_device_is_said(ufo, ckpt, images):
    answer = ufo("predict", images, "--ckpt", ckpt, "--device", "cudda:1")
    assert answer.code == 1 and "--device cudda:1 is not a device; did you mean 'cuda'?" in answer.err[-1]


def test_a_training_of_nothing_is_not_begun(ufo):
    answer = ufo("train")
    assert (
        answer.code == 1 and "say what to train" in answer.err[-1] and "experiment=digits" in answer.err[-1]
    )
