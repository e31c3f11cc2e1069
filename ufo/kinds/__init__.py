"""The four kinds of result: objects, a class map, one referred object, text.

A task names its kind and may refine it (`kind: ClassVar[Kind] = Text(asks=True)`). Whatever is done with an
answer after it has been parsed asks the kind, never the task's name.
"""

from ufo.kinds.base import ImageInfo, Kind, Shown, Usual
from ufo.kinds.class_map import ClassMap
from ufo.kinds.found import Found
from ufo.kinds.marks import Marks
from ufo.kinds.objects import Objects
from ufo.kinds.referred import Referred
from ufo.kinds.text import Text

__all__ = ["ClassMap", "Found", "ImageInfo", "Kind", "Marks", "Objects", "Referred", "Shown", "Text", "Usual"]
