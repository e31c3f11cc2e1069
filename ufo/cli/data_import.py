"""`ufo data import`: what a label tool exported becomes a source that can be trained, checked at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ufo.cli import CommandError
from ufo.cli.data_place import (
    LOST,
    Place,
    check_free,
    check_sources,
    new_folder,
    note,
    place_for,
    say_next,
    short,
    source_texts,
    write_sources,
)
from ufo.data.datasets.naming import read_names
from ufo.data.errors import DataError
from ufo.data.formats import Format, format_named, recognised
from ufo.data.labels.finding import walk
from ufo.data.labels.reading import Source
from ufo.data.labels.record import Labels
from ufo.data.labels.split import divide
from ufo.data.labels.tidy import tidy
from ufo.data.labels.writing import Written, picture_names, write
from ufo.data.problems import DOUBTFUL, EFFECTS, LEFT_OUT, Problems
from ufo.ops.nearest import beside

AUTO = "auto"
UNNAMED = "picture beside labelled ones that no label file names"
PACKED = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")


def run(args: argparse.Namespace) -> int:
    """Import, say what was left out, check. 1 if the check finds the result not usable."""
    name, path = _words(args.words)
    classes = class_names(args.classes)
    place = place_for(path, args.out, args.name_)
    with new_folder(place, [path, *([args.images] if args.images else [])], args.force) as scratch:
        source = Source(path, _folder(args.images), scratch, classes)
        found, labels = _read(name, source, classes)
        root, names = picture_names(labels.pictures, scratch, place.out)
        try:
            splits, how = divide(labels.pictures, names, args.val)
            by_picture = {id(picture): n for picture, n in zip(labels.pictures, names, strict=True)}
            written = write(labels, splits, by_picture, root, scratch)
        except DataError:
            say_problems(labels.problems)  # what was left out may be the reason
            raise
        about = f"written by `ufo data import {found.name}` from {path.absolute()}"
        texts = source_texts(place, written.sources, root, " ".join(about.split()))
        check_free(texts, place, args.force)
        problems = labels.problems
        counts = {split: len(part) for split, part in splits.items()}
        lost = {kind: [number, problems.first[kind]] for kind, number in problems.left_out.items()}
        about_it = {"format": found.name, "path": str(path.absolute()), "pictures": counts, "split": how}
        note(scratch, texts, **about_it, **{LOST: lost})
    write_sources(texts)
    _say(labels, written, place, {s: len(p) for s, p in splits.items()}, how)
    say_problems(problems)
    code = check_sources(list(texts), args)
    if not code:
        say_next(place, list(texts))
    return code


def _read(name: str, source: Source, classes: list[str] | None) -> tuple[Format, Labels]:
    """The format and what it has read, tidy. Raises CommandError or DataError."""
    try:
        found = _format(name, source)
        with _bar() as source.seen:
            labels = found.read(source)
        if not labels.map_classes:  # else the maps are pictures without labels, too
            for path in source.unnamed():
                source.problems.report(UNNAMED, source.place(path))
        tidy(labels, classes)
    except (CommandError, DataError) as error:
        if packed := source.files(*PACKED, under=source.folder):
            raise CommandError(
                f"{error} There are packed files: unpack {source.place(packed[0])} and import what is in it."
            ) from error
        _say_format(name, source, error)
        raise
    return found, labels


def _say_format(name: str, source: Source, error: Exception) -> None:
    """Raises CommandError where files are of no use in the format that was named, and show another one."""
    others = [] if name == AUTO else recognised(source)
    if not others or format_named(name) in [other for other, _ in others]:
        return
    other, sign = others[0]
    raise CommandError(
        f"{source.path} is no export of {format_named(name).name}, it looks like {other.name} ({sign}); "
        f"write ufo data import {other.name} {source.path}"
    ) from error


def class_names(given: str | None) -> list[str] | None:
    """The names of `--classes`: a text file with one per line, or a,b,c."""
    if given is None:
        return None
    names = given if Path(given).is_file() else [name.strip() for name in given.split(",") if name.strip()]
    found = list(read_names(names))
    if not found:
        raise CommandError(f"--classes {given}: give names, a,b,c, or a text file with one per line")
    return found


def _words(words: list[str]) -> tuple[str, Path]:
    """FORMAT and PATH; the format may be left out. Raises CommandError."""
    if len(words) == 1:
        name, path = AUTO, Path(words[0])
        if not path.exists():
            _check_format_alone(words[0])
            raise CommandError(f"name the folder or file, too: ufo data import {words[0]} PATH")
    elif len(words) == 2:
        name, path = words[0], Path(words[1])
    else:
        raise CommandError(f"FORMAT and PATH are expected, not {len(words)} words; quote paths with blanks")
    if name != AUTO:
        format_named(name)
    if not path.exists():
        raise CommandError(f"there is no file or folder {path}{beside(path)}")
    if path.is_file() and path.suffix.lower() in PACKED:
        raise CommandError(f"{path} is packed; unpack it and give the folder")
    if path.is_dir() and next(walk(path), None) is None:
        raise CommandError(f"the folder {path} is empty; name the one with the labels")
    return name, path


def _check_format_alone(word: str) -> None:
    """CommandError where a word that is no path is no format either; DataError where it is nearly one."""
    try:
        format_named(word)
    except DataError as error:
        near = beside(Path(word))
        if near or "did you mean" not in str(error):
            raise CommandError(f"there is no file or folder {word}{near}") from error
        raise


def _folder(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        raise CommandError(f"--images {path} is not a folder{beside(path)}")
    return path


def _format(name: str, source: Source) -> Format:
    """The format that was named, or the one that the files show; says which."""
    if name != AUTO:
        return format_named(name)
    found = recognised(source)
    if not found:
        from ufo.data.formats import formats

        raise CommandError(
            f"{source.path} is not recognised as the export of any tool; name its format, one of: "
            f"{', '.join(formats())}. Data that need no conversion: ufo data new"
        )
    taken, sign = found[0]
    others = [other.name for other, _ in found[1:]]
    also = f"; it may also be {' or '.join(others)}: name the format to take that" if others else ""
    print(f"taken as {taken.name} ({sign}){also}")
    return taken


def _say(labels: Labels, written: Written, place: Place, counts: dict[str, int], how: str) -> None:
    """What there was and where it is now."""
    pictures = labels.pictures
    things = [thing for picture in pictures for thing in picture.things]
    masked = sum(bool(thing.polygons or thing.rle) for thing in things)
    parts = [f"{len(pictures):,} pictures"]
    if things:
        masks = f", {masked:,} of them with a mask" if masked else ""
        parts.append(f"{len(things):,} objects of {len(labels.classes)} classes{masks}")
    if maps := sum(picture.class_map is not None for picture in pictures):
        parts.append(f"{maps:,} class maps of {len(labels.map_classes)} classes")
    if captions := sum(len(picture.captions) for picture in pictures):
        parts.append(f"{captions:,} captions")
    if texts := sum(bool(thing.text) for thing in things):
        parts.append(f"{texts:,} expressions")
    print(", ".join(parts))
    names = labels.classes or labels.map_classes
    if names:
        print(f"  classes: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}")
    for text in labels.notes:
        print(f"  note: {text}")
    print(f"  split ({how}): " + ", ".join(f"{n:,} {split}" for split, n in counts.items()))
    if "test" in counts:
        print("  the test part is written for a last evaluation; no source uses it")
    print(f"  written: {short(place.out)}: {', '.join(written.files)}")
    print(f"  pictures stay in {written.root}; names in the files start from there")


def say_problems(problems: Problems) -> None:
    """What was not imported, or not as it is in the files, by kind with the first place."""
    for counts, effect in ((problems.left_out, EFFECTS[LEFT_OUT]), (problems.doubtful, EFFECTS[DOUBTFUL])):
        for kind, number in counts.most_common():
            print(f"  {number:,}x {kind}, {effect} (first: {problems.first[kind]})")


@contextmanager
def _bar() -> Iterator[Callable[[], None]]:
    """A bar on stderr that counts pictures, if somebody watches."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("pictures", total=None)
        yield lambda: bar.advance(task)
