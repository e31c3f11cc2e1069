"""What users do with a trained model: ask it about pictures, folders and videos, look at the answers.

`Inference` has the methods that `UFO` inherits, `Result` is one answer with its picture, `Results` those of
several tasks to one picture.
"""

from ufo.inference.asking import RequestError
from ufo.inference.model import Inference
from ufo.inference.results import Result, Results

__all__ = ["Inference", "RequestError", "Result", "Results"]
