"""How the answers of a task are decoded: the parts that its settings ask for, chosen once and then fixed.

`check_settings` refuses what does not go together when a model is built; docs/architecture.md has the table.
Shapes: `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.head.certainty import number_tokens
from ufo.head.early_leaving import tokens_without_class
from ufo.head.expand import Expansion
from ufo.head.grammar import Grammar, grammar_of, tokens_behind
from ufo.head.guesses import Drafts, Guess, MaskRun, Separators
from ufo.ops.monotone import check_monotone
from ufo.tasks.base import BOXES, Task
from ufo.tokenizer import Tokenizer


@dataclass(frozen=True)
class Beams:
    """The settings of beam search."""

    number: int  # hypotheses of each query
    temperature: float = 1.0  # the logits are divided by it, for the search and for the returned scores
    length_penalty: float = 1.0  # alpha >= 0, the exponent of the length; a larger one favours longer answers


@dataclass(frozen=True, eq=False)
class Strategy:
    """The parts of decoding, each of which can be left out.

    A grammar is on the backbone's device, which logits are on; the rest is for decisions on the host.
    """

    start_id: int
    end_id: int
    max_length: int  # tokens that an answer may have
    beams: Beams | None = None  # search for the best whole answer instead of taking the likeliest token
    grammar: Grammar | None = None  # only tokens that keep an answer well-formed
    expansion: Expansion | None = None  # several first tokens of a query
    guesses: tuple[Guess, ...] = ()  # the same answers in fewer calls; not for beams, which take single steps
    leave_after: Tensor | None = None  # bool [V], first tokens after which a greedy row leaves at once
    refusal: int | None = None  # the token that is no first one: its probability is returned instead


def choose_strategy(
    backbone: Backbone, tokenizer: Tokenizer, task: Task, classes: Sequence[str] = ()
) -> Strategy:
    """The strategy of a task's settings, for answers about `classes`.

    Raises ValueError as `check_settings` does.
    """
    check_settings(task, len(backbone.output_embedding))
    device, classes = backbone.device, tuple(classes)
    beams = Beams(task.num_beams, task.temperature, task.length_penalty) if task.num_beams > 1 else None
    before, blank = _prompt_end(backbone, task)
    grammar, limit = None, task.max_length
    if task.constrained:
        answers = tuple((tuple(blank + t for t in first), *rest) for first, *rest in task.grammar(classes))
        grammar = grammar_of(tokenizer, answers, before).to(device)
        limit = max(limit, grammar.longest - 1)  # the end need not fit; well-formed answers do not babble
    leave_after = None
    # a well-formed answer is said to its end, and the best of several beams is known at their ends only
    if classes and task.names_first and grammar is None and beams is None:
        leave_after = tokens_without_class(tokenizer, classes, len(backbone.output_embedding))
    behind = "" if before.endswith(" ") else before  # a word would be one token with that blank
    guesses: list[Guess] = []
    if task.drafts:
        drafts = tokens_behind(tokenizer, behind, [blank + text for text in task.drafts])
        guesses.append(Drafts([[*ids, tokenizer.end_id] for ids in drafts]))
    if task.mask_tokens > 1:
        guesses.append(MaskRun(tokenizer.mask_id, task.mask_tokens))
    elif task.largest_bin and not task.grid_per_window:  # boxes of one row per image
        guesses.append(_separators(tokenizer, task, len(backbone.output_embedding), behind, blank))
    return Strategy(
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        max_length=limit,
        beams=beams,
        grammar=grammar,
        expansion=_expansion(tokenizer, task) if task.top_tokens > 1 else None,
        guesses=tuple(guesses),
        leave_after=leave_after,
        refusal=tokens_behind(tokenizer, behind, [blank + task.refusal])[0][0] if task.refusal else None,
    )


def _separators(tokenizer: Tokenizer, task: Task, vocabulary: int, prompt: str, blank: str) -> Separators:
    """What stands around the numbers of a box that is said behind the end of a `prompt`."""
    number, (begin, end) = "1", task.wording.box  # any number, for the tokens behind it

    def written(at: str, text: str) -> list[int]:
        return tokens_behind(tokenizer, at, [text])[0] if text.strip() else []

    digits = number_tokens(tokenizer, vocabulary).value >= 0
    between, behind = written(number, task.wording.between), written(number, end)
    return Separators(digits, between, behind, written(prompt, blank + begin))


def _prompt_end(backbone: Backbone, task: Task) -> tuple[str, str]:
    """How the prompt ends that an answer continues, and the blank that the answer then begins with.

    Both are empty where answers start anew.
    """
    if task.grid_per_window or not backbone.answers_continue_prompt:
        return "", ""
    before = backbone.quirks.asked(backbone.learned_prompt_end)
    return before, backbone.learned_prompt_end[len(before) :]


def _expansion(tokenizer: Tokenizer, task: Task) -> Expansion:
    [[_, silent, *_]] = tokenizer.encode([task.wording.background])
    return Expansion(task.top_tokens, task.keep_queries, silent)


_LOWEST = {"max_length": 1, "num_beams": 1, "top_tokens": 1, "keep_queries": 0, "length_penalty": 0}


def check_settings(task: Task, vocabulary: int | None = None, queries: int | None = None) -> None:
    """Raises ValueError, in one sentence with the settings' names, where answers cannot be decoded as asked.

    Args:
        vocabulary: how many tokens there are, V, if known.
        queries: how many queries an image has, if known.
    """
    for name, lowest in _LOWEST.items():
        if getattr(task, name) < lowest:
            raise _refusal(task, f"{name}={getattr(task, name)} is too small; use {name}={lowest} or more")
    if task.temperature <= 0:
        raise _refusal(task, f"temperature={task.temperature} is too small; use a positive one")
    if task.constrained and not task.has_grammar:
        raise _refusal(task, "its answers are free text; leave constrained=false")
    if vocabulary is not None and 2 * task.num_beams > vocabulary > 1:
        raise _refusal(
            task,
            f"num_beams={task.num_beams} is too many for a vocabulary of {vocabulary} tokens; use "
            f"num_beams={vocabulary // 2} or fewer",
        )
    if task.refusal and task.num_beams > 1:
        raise _refusal(
            task,
            f"num_beams={task.num_beams} searches for whole answers, and the first token alone decides that "
            "there is nothing; set num_beams=1, or nothing=false",
        )
    if task.score not in task.scores:
        raise _refusal(task, f"score={task.score} is none of its scores; choose {' or '.join(task.scores)}")
    if (box := task.settings.get("box", BOXES[0])) not in BOXES:
        raise _refusal(task, f"box={box} is none of its boxes; choose {' or '.join(BOXES)}")
    _check_calibration(task)
    _check_expansion(task, vocabulary, queries)


def _check_calibration(task: Task) -> None:
    if not task.calibration:
        return
    fitted = {"box": "said", **task.calibration}  # older maps are of boxes as they were said
    if set(fitted) != {"score", "points", "box"}:
        raise _refusal(task, "its calibration is not what `ufo calibrate` writes; set calibration=null")
    for name in task.calibrated_for:
        if (now := task.settings[name]) != fitted[name]:
            raise _refusal(
                task,
                f"it is calibrated for {name}={fitted[name]}, and that map says nothing of {name}={now}; set "
                f"calibration=null, or {name}={fitted[name]}",
            )
    try:
        check_monotone(fitted["points"])
    except ValueError as error:
        raise _refusal(task, f"its calibration cannot be used: {error}; set calibration=null") from error


def _check_expansion(task: Task, vocabulary: int | None, queries: int | None) -> None:
    top, keep = f"top_tokens={task.top_tokens}", f"keep_queries={task.keep_queries}"
    if task.top_tokens == 1 and task.keep_queries:
        raise _refusal(
            task,
            f"{keep} chooses among the pairs of query and token that top_tokens makes, and {top} makes none; "
            "set keep_queries=0 or a larger top_tokens",
        )
    if task.top_tokens == 1:
        return
    if task.num_beams > 1:
        raise _refusal(
            task,
            f"num_beams={task.num_beams} and {top} exclude each other, because beam search keeps the best "
            "answer of a query and top_tokens several; set one of them to 1",
        )
    if not task.grid_per_window:
        raise _refusal(task, f"{top} needs queries and this task has one answer per image; set top_tokens=1")
    if vocabulary is not None and task.top_tokens > vocabulary:
        raise _refusal(task, f"{top} is more than a vocabulary of {vocabulary} tokens has; lower top_tokens")
    if queries is not None and task.keep_queries > queries * task.top_tokens:
        raise _refusal(
            task,
            f"{keep} needs as many pairs of query and token, and {queries} queries with {top} make "
            f"{queries * task.top_tokens}; lower keep_queries",
        )


def _refusal(task: Task, why: str) -> ValueError:
    return ValueError(f"task '{task.name}': {why}")
