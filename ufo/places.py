"""Where the project's configs and shipped weights are: the only module that knows.

In a checkout they are the folders `conf/` and `weights/` beside the package, in an installed wheel folders
inside of it (`setup.py` copies them there). What is read belongs to the code that runs, whatever the current
folder is; what is written (`runs/`, `data/`) goes to the current folder.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
MARK = Path("conf", "train.yaml")  # a folder that holds it holds the project's configs


def home() -> Path:
    """The folder that holds `conf/` and `weights/`: the checkout, or the installed package.

    Raises FileNotFoundError where neither has them.
    """
    for folder in (PACKAGE.parent, PACKAGE):
        if (folder / MARK).is_file():
            return folder
    raise FileNotFoundError(
        f"the project's configs are neither in {PACKAGE.parent} nor in {PACKAGE}; install the package again"
    )


def conf() -> Path:
    """The folder of the configs."""
    return home() / "conf"


def weights() -> Path:
    """The folder of the shipped models."""
    return home() / "weights"


def check_read(path: Path, folder: Path) -> None:
    """Raises ValueError where Hydra would read a config of the project in place of a user's own.

    Args:
        path: the own file.
        folder: the folder above it that joins Hydra's search path, behind that of the project.
    """
    name = path.absolute().relative_to(folder.absolute())
    found = conf() / name
    if not found.is_file() or found.samefile(path) or found.read_bytes() == path.read_bytes():
        return
    raise ValueError(
        f"{path} is not read, as the project has a {name.as_posix()} of its own; give the file another name, "
        f"as own_{path.name}"
    )


def shipped(path: str | Path) -> Path | None:
    """The shipped model that `weights/NAME` means in a folder without it; None for any other path."""
    path = Path(path)
    if path.exists() or path.parent != Path("weights"):
        return None
    found = weights() / path.name
    return found if found.is_dir() else None


def written(path: Path) -> str:
    """A path as configs hold it: from the current folder on if it is below it, so that runs can be moved."""
    here = Path.cwd()
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)


def register() -> None:
    """Make `${place:conf}` and `${place:weights}` known to OmegaConf."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("place", lambda name: written(home() / name), replace=True)
