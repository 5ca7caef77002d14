"""The errors a user can meet, each with the exit code that the command line gives it.

A message names what came, what was expected and what to do, in one line. Violations of our own
invariants are `assert`s, not these.
"""


class CrnError(Exception):
    """Base of every error that is the user's to mend. `exit_code` is what the CLI exits with."""

    exit_code = 1


class UsageError(CrnError, ValueError):
    """An option or argument that cannot mean anything (exit 2)."""

    exit_code = 2


class BadInput(CrnError, ValueError):
    """A file or value that is missing, damaged, of the wrong kind or not trusted (exit 3)."""

    exit_code = 3


class Mismatch(CrnError, ValueError):
    """Two sound things that do not fit together: size, label set, version, machine (exit 4)."""

    exit_code = 4


class ResourceError(CrnError, OSError):
    """Memory, disk or permission: what was needed and what is there (exit 5)."""

    exit_code = 5


class PartlyDone(CrnError):
    """Some items of a batch failed; each was named on the way (exit 6)."""

    exit_code = 6


class CheckFailed(CrnError):
    """A verification that ran and did not pass (exit 7)."""

    exit_code = 7


class Unavailable(CrnError, RuntimeError):
    """A backend or feature that was asked for and cannot run here (exit 8)."""

    exit_code = 8


class Interrupted(CrnError):
    """Stopped by a signal after saving; the work can be resumed (exit 75)."""

    exit_code = 75
