"""The errors a user can meet. Each message is one line that names the cause and the mend."""


class SplitcodecError(Exception):
    """Base of all errors this package raises on purpose; the command line prints it as one line.

    It may quote a file: what a terminal would take for an order is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in message))


class SettingsError(SplitcodecError):
    """A parameter is unknown, has a bad value, or contradicts another."""


class InputError(SplitcodecError):
    """A model, text or file is missing, damaged, or cannot be fetched."""


class ArchitectureError(SplitcodecError):
    """The model's layout is not one the splitter knows."""


class BitstreamError(SplitcodecError):
    """A container file is damaged, foreign, or was made with another codec."""


class TrainingError(SplitcodecError):
    """Training diverged or cannot continue from its checkpoint."""


def reason_of(error: Exception | str) -> str:
    """What an error of a library says, on one line and cut where a reader would stop."""
    return f"{' '.join(str(error).split()):.300}"
