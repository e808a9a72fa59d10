"""The exception for mistakes of the user."""


class UserError(ValueError):
    """A mistake in the user's input; the message is one sentence that names the mistake and what to do.

    IPython shows only this sentence, because a stack trace does not help with a mistyped name.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"fairnb: {self}"]

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # names and library messages may contain line breaks
