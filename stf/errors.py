"""The errors a user can meet. Each message says what is wrong, where, and what to do about it."""


class StfError(Exception):
    """An error that the user can fix; a command prints it as one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(StfError):
    """A wrong option, or a parameter file that contradicts itself."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A key or value in the configuration that is unknown, of the wrong type or out of range."""


class DataError(StfError):
    """A file or folder of the data set that is missing, broken or not what its place says it is."""


class CheckpointError(StfError):
    """A weights file that is missing, damaged, foreign, or would have to run code to be read."""


class TrainingError(StfError):
    """A training run that cannot continue (non-finite loss, budget spent before it started)."""


class TrackingError(StfError):
    """The MLflow store cannot be reached, or refused what was logged."""


class PeerError(StfError):
    """One of several processes that work together has failed or ended, so the others cannot continue."""


class Interrupted(StfError):
    """A run that was asked to leave (SIGTERM, Ctrl-C, its dvc is gone) and did; exit code 128 + the signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)  # both, or it could not be pickled for the other processes
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.args[0]
