"""What pyproject.toml cannot say: the wheel holds conf/ and weights/, which stand beside the package here.

They become folders of the package `ufo`, where `ufo/places.py` finds them. An editable installation reads
those of the checkout.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("conf", "weights")


class WithConfigs(build_py):
    """Copies the folders beside the package into it."""

    def run(self):
        super().run()
        for name in () if self.editable_mode else FOLDERS:
            target = Path(self.build_lib, "ufo", name)
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build, with files that are gone
            shutil.copytree(name, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


setup(cmdclass={"build_py": WithConfigs})
