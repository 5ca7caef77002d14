"""The errors a user can meet, each with the exit code that the command line gives it.

A message names what came, what was expected and what to do, in one line. What can be pasted stands
between backticks: a whole command, or an option to add to the one that was given. Violations of our
own invariants are `assert`s, not these.
"""

from __future__ import annotations

from typing import Self


def one_line(text: str) -> str:
    """A message, with names of files in it, fit for a terminal and in one line.

    What cannot be printed is written as Python would: a name may hold line ends, the sequences that
    colour or erase, and bytes that are no Unicode.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class CrnError(Exception):
    """Base of every error that is the user's to mend. `exit_code` is what the CLI exits with."""

    exit_code = 1
    meant: tuple[str, tuple[str, ...]] | None = None
    """A word that was given and what was probably meant, from which the command line makes a
    command to paste."""

    def instead_of(self, word: str, *meant: str) -> Self:
        """The same error, with what was probably `meant` by a word; nothing meant: no change."""
        if meant:
            self.meant = word, meant
        return self


class UsageError(CrnError, ValueError):
    """An option or argument that cannot mean anything (exit 2)."""

    exit_code = 2


class BadInput(CrnError, ValueError):
    """A file or value that is missing, damaged, of the wrong kind or not trusted (exit 3)."""

    exit_code = 3


class Mismatch(CrnError, ValueError):
    """Two sound things that do not fit together: size, label set, version, machine (exit 4)."""

    exit_code = 4


class Outdated(Mismatch):
    """An engine that must be built again, without the command: who knows its file adds that."""

    def __init__(self, message: str, **options: str) -> None:
        """`options`: what it takes of `crn-fast build-engine`'s, as in target='sm_90'."""
        super().__init__(message)
        self.options = options


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
