"""Pictures by the names that label files have for them: paths of other machines, URLs, bare names, uploads.

A name leads only to pictures in the folder that the user gave: `../` and absolute paths are names like any
other.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ufo.data.errors import DataError
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.labels.record import split_of
from ufo.data.problems import DOUBTFUL, Problems

MAX_FILES = 5_000_000
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
ELSEWHERE = re.compile(r"^[\\/]|^[A-Za-z]:[\\/]|://|(^|[\\/])\.\.[\\/]")
"""Names that begin above the data set's folder: absolute paths, URLs, and those that lead out of it."""
NOT_IN_UPLOADS = re.compile(r"[^-\w.]")
"""What it takes out of the name; blanks have become underscores before."""
ONE_PICTURE = "picture that labels of another file count for, too, since there is only one of the name"


class Pictures:
    """The pictures of a folder.

    Args:
        images: the folder; what is below it counts, too.
        problems: where names are reported that lead to none, or may mean several.
    """

    def __init__(self, images: Path, problems: Problems) -> None:
        self.images, self.problems = images, problems
        self._found: dict[str, list[Path]] | None = None
        self._by_upload: dict[str, list[Path]] | None = None
        self._called: dict[Path, list[str]] = {}  # how labels call a picture, its last part first
        self._meant: set[Path] = set()  # those that a label file has named

    @property
    def pictures(self) -> dict[str, list[Path]]:
        """All pictures by their names as `spelled` has them."""
        if self._found is None:
            self._found = {}
            for path in walk(self.images):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    self._found.setdefault(spelled(path.name), []).append(path)
        return self._found

    @property
    def _uploaded(self) -> dict[str, list[Path]]:
        """All pictures by the names that Label Studio's server gives them, after what it puts before."""
        if self._by_upload is None:
            self._by_upload = {}
            for name, paths in self.pictures.items():
                for form in ("NFC", "NFD"):  # a mark of its own, as a Mac writes it, is taken out, too
                    key = NOT_IN_UPLOADS.sub("", unicodedata.normalize(form, name).replace(" ", "_"))
                    known = self._by_upload.setdefault(key, [])
                    known += [path for path in paths if path not in known]
        return self._by_upload

    @property
    def stems(self) -> dict[str, str]:
        """The names of all pictures without suffix, by `spelled`."""
        return {spelled(path.stem): path.stem for paths in self.pictures.values() for path in paths}

    def find(self, name: str, near: Path | None = None, split: str = "") -> Path | None:
        """The picture that a label file names: as a path, a URL or a bare name, with any slashes.

        Of several with the name, the one with most of the path's last folders, then the one in a folder that
        is called after the split, then the one nearest to the folder `near`, then the one whose last folders
        are called as those of `near` (`Annotations/one/a.xml` is about `JPEGImages/one/a.jpg`).
        """
        words = _words(name)
        if not words:
            return None
        last = spelled(words[-1])
        spellings = [last, unquote(last)]
        spellings += [UPLOADED.sub("", spelling) for spelling in spellings]
        found = next((self.pictures[s] for s in spellings if s in self.pictures), [])
        if not found and UPLOADED.match(last):
            found = next((self._uploaded[s] for s in spellings if s in self._uploaded), [])
        if not found:
            return None
        self._meant.update(found)
        if len(found) == 1:
            self._note_name(found[0], [spelled(word) for word in reversed(words)])
            return found[0]
        alike = ((self._alike(path, words, near, split), path) for path in found)
        ranked = sorted(alike, key=lambda pair: pair[0], reverse=True)
        if ranked[0][0] == ranked[1][0]:
            self.problems.report("name of several pictures", name[:200])
            return None
        return ranked[0][1]

    def inside(self, name: str) -> list[str]:
        """The folders in a name of a picture that are those of the data set, the nearest first.

        Of a path of another machine (`C:\\data\\test\\a.jpg`) only those count that such a picture is in
        here, too: how the folders above were called there says nothing about the data.
        """
        words = _words(name)
        folders = words[-2::-1]
        if not ELSEWHERE.search(name):
            return folders
        found = self.pictures.get(spelled(words[-1]), []) if words else []
        shared = (_same_end(path.relative_to(self.images).parts, words) - 1 for path in found)
        return folders[: max(shared, default=0)]

    def _alike(
        self, path: Path, words: list[str], near: Path | None, split: str
    ) -> tuple[int, bool, int, int]:
        """How well a picture fits a name: how many last parts are the same, and where it is (see `find`)."""
        same = _same_end(path.parts, words)
        folders = path.relative_to(self.images).parts[:-1]  # one above them all says nothing
        inside = bool(split) and any(split_of(part) == split for part in folders)
        if near is None:
            return same, inside, 0, 0
        close = len(os.path.commonpath([path.resolve(), near.resolve()]))
        return same, inside, close, _same_end(path.parent.parts, near.parts)

    def _note_name(self, path: Path, name: list[str]) -> None:
        """Count a picture that labels have called otherwise before, as frames of a folder that is missing."""
        other = self._called.setdefault(path, name)
        shared = min(len(name), len(other))
        if name[:shared] != other[:shared]:
            said = ["/".join(reversed(words))[:100] for words in (other, name)]
            self.problems.report_once(ONE_PICTURE, " and ".join(said), effect=DOUBTFUL)

    def with_stem(self, stem: str, near: Path | None = None) -> Path | None:
        """The picture of a name without suffix."""
        for suffix in sorted(IMAGE_SUFFIXES, key=lambda s: (s not in (".jpg", ".jpeg", ".png"), s)):
            if spelled(stem + suffix).rsplit("/", 1)[-1] in self.pictures and (
                found := self.find(stem + suffix, near)
            ):
                return found
        return None

    def unnamed(self) -> list[Path]:
        """Pictures that no label file has named, in the folders of those that one has."""
        folders = {path.parent for path in self._meant}
        every = (path for paths in self.pictures.values() for path in paths)
        return sorted(path for path in every if path.parent in folders and path not in self._meant)


def _words(name: str) -> list[str]:
    """The parts of a path, a URL or a bare name, with any slashes."""
    if "?d=" in name:  # of Label Studio's local files
        path = unquote(urlsplit(name).query.removeprefix("d="))
    elif "://" in name:
        path = unquote(name.split("?")[0])
    else:
        path = name
    return [word for word in re.split(r"[\\/]+", path) if word not in ("", ".", "..")]


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted, without hidden ones; links in a circle are followed once."""
    seen: set[tuple[int, int]] = set()
    count = 0
    for base, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(base)
        if (status.st_dev, status.st_ino) in seen:
            folders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in sorted(files):
            if not name.startswith("."):
                count += 1
                if count > MAX_FILES:
                    raise DataError(
                        f"{folder} has more than {MAX_FILES} files; name the folder of one data set."
                    )
                yield Path(base) / name


def spelled(name: str) -> str:
    """A name so that two spellings of it are equal: in lower case, each letter with its marks as one."""
    return unicodedata.normalize("NFC", name).lower()


def _same_end(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many of the last parts of two paths are the same."""
    pairs = zip(reversed(ours), reversed(theirs), strict=False)
    return sum(1 for _ in takewhile(lambda pair: spelled(pair[0]) == spelled(pair[1]), pairs))


def stem_of(name: str) -> str:
    """A file's name without folders and suffix."""
    return PurePosixPath(name.replace("\\", "/")).stem
