"""The documentation as a site: the same markdown files in the same tree, and the API reference.

    make docs        # build/site/index.html

Zensical turns markdown into pages, pdoc docstrings into the reference. Both are in the extra `docs`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "Start": ["README.md", "docs/your_data.md", "docs/choosing.md", "docs/errors.md"],
    "Use": [
        "docs/python.md",
        "docs/python_training.md",
        "docs/serve.md",
        "docs/export.md",
        "docs/compare.md",
    ],
    "Train": ["docs/recipes.md", "docs/models.md", "docs/cluster.md", "docs/sweeps.md", "docs/dashboards.md"],
    "Data": ["docs/data.md", "conf/vocab/README.md"],
    "Results": [
        "docs/results.md",
        "docs/report.md",
        "docs/trust.md",
        "docs/speed.md",
        "docs/evaluators.md",
        "benchmarks/scaling.md",
    ],
    "Inside": ["docs/architecture.md", "docs/extending.md", "docs/published_system.md", "docs/glossary.md"],
    "Project": ["CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md", "docs/slurm_sandbox_output.md"],
}
"""The pages by section; a test checks that no document is left out."""
FILES = ["LICENSE", "docs/assets", "docs/first_steps.ipynb"]


def stage(out: Path) -> None:
    """Copy all pages and what they show, with Zensical's settings, to a folder."""
    for name in (*(page for pages in PAGES.values() for page in pages), *FILES):
        target = out / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    (out / "zensical.toml").write_text(settings(), encoding="utf-8")


def settings() -> str:
    """`zensical.toml`: nothing is loaded from elsewhere, so that the site works offline."""
    nav = ",\n".join(
        f'  {{"{section}" = [{", ".join(quoted(page) for page in pages)}]}}'
        for section, pages in PAGES.items()
    )
    return (
        '[project]\nsite_name = "UFO"\ndocs_dir = "pages"\nsite_dir = "site"\n'
        f"nav = [\n{nav},\n"
        '  {"API" = "api/ufo.html"}\n]\n'
        "[project.theme]\nfont = false\n"
        'features = ["navigation.sections", "navigation.top", "content.code.copy", "search.highlight"]\n'
    )


def quoted(text: str) -> str:
    return f'"{text}"'


def modules() -> list[str]:
    """All modules of the package but its command line: pdoc takes no more than `__all__` by itself."""
    found = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "ufo").rglob("*.py"))
    names = {".".join(path.parts).removesuffix(".__init__") for path in found}
    return sorted(name for name in names if not name.startswith("ufo.cli"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    out = parser.parse_args().out
    work = out.with_name(out.name + "_pages")
    for folder in (work, out):
        shutil.rmtree(folder, ignore_errors=True)
    stage(work)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=work, check=True)
    shutil.move(work / "site", out)
    shutil.rmtree(work)
    reference = ["-m", "pdoc", *modules(), "--docformat", "google", "--output-directory", str(out / "api")]
    subprocess.run([sys.executable, *reference], cwd=ROOT, check=True)
    print(out / "index.html")


if __name__ == "__main__":
    main()
