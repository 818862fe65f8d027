"""The errors a user can cause. Each message says what came, what is allowed, what to do."""


class ModelEditError(Exception):
    """Anything wrong with what the user asked for or handed in; the command line exits with 2."""


class DataError(ModelEditError):
    """Unreadable, empty, inconsistent or missing data."""


class ModelError(ModelEditError):
    """A model that cannot be built, run or edited as asked."""


class CheckpointError(ModelEditError):
    """A file that is missing, truncated, not finite, or not the one an edit was made for."""


class GateError(ModelEditError):
    """An edited model failed its gates and was asked to be saved all the same."""
