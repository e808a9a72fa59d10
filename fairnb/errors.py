"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """A mistake in what the user gave; the message is one sentence that names the thing and what to do.

    In a notebook IPython shows the sentence alone, since the stack trace of a mistyped name helps nobody.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"fairnb: {self}"]

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # whatever a name or a library's message held
