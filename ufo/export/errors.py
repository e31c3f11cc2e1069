"""What cannot be exported, in one sentence that says what to do instead."""


class ExportError(ValueError):
    """A model, a task or a machine that an export cannot be made of or on."""
