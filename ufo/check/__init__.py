"""What can be wrong with a config, said in one sentence before any training starts.

One file for each kind of thing: keys and arguments (`config`), numbers (`values`), Lightning's options
(`trainer`), files and what they list (`data`), class names (`classes`), texts (`texts`), objects (`grid`),
lengths of answers (`answers`); and how an entry point says it (`errors`).
"""

from ufo.check.classes import check_fit, check_known, check_source
from ufo.check.config import check_arguments, check_config, check_entry, check_run
from ufo.check.errors import RUNNING, SETUP, clear_errors
from ufo.check.values import check_numbers

__all__ = [
    "RUNNING",
    "SETUP",
    "check_arguments",
    "check_config",
    "check_entry",
    "check_fit",
    "check_known",
    "check_numbers",
    "check_run",
    "check_source",
    "clear_errors",
]
