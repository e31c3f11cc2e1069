"""What is wrong with a file or an annotation, in one sentence that names it."""


class DataError(Exception):
    """A sample or an annotation file that cannot be used; the message names the file and the reason."""
