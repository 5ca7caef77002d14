"""Places on the way of a save where a test may have this process die, or its disk fail.

For tests alone. CRN_FAST_FAILPOINT=PLACE:ACTION:N acts when a place of `PLACES` is reached for the
N-th time (the first, if N is left out): with the name of a signal (SIGKILL, SIGTERM) this process
gets it, with that of an error of the operating system (ENOSPC, EIO) that is raised. Unset, a place
costs a look into the environment.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "CRN_FAST_FAILPOINT"

PLACES = {
    "write.begin": "before the temporary file is made",
    "write.half": "the temporary file has half of its bytes",
    "write.written": "it has all of them, not yet on disk",
    "write.synced": "they are on disk",
    "write.ready": "its permissions are set; it is about to be moved into place",
    "write.renamed": "it is in place, which is not yet on disk",
    "stage.ready": "a staged file was used, and is about to be moved into place",
    "stage.renamed": "it is in place, which is not yet on disk",
    "save.numbered": "ckpt-<step>.pt is there, ckpt.pt is still the one before",
    "save.linked": "the newest checkpoint has its second name, which is not yet ckpt.pt",
    "save.newest": "ckpt.pt is the newest checkpoint, too old ones are still there",
    "save.dropped": "one that was too old is gone",
    "log.half": "half of a line of a log is written",
    "log.line": "a line of a log is written, that of the other may not be",
    "train.stepped": "the weights took a step, their running averages did not",
    "train.sampled": "sample pictures are written, the checkpoint of the step is not",
    "train.saved": "the checkpoint is written, the step not yet told",
    "resume.cut": "lines of later steps are gone from one log, perhaps not from the other",
}
"""By name: what is done and what is not. Everything that `write.` names is done by each file."""

arrivals: Counter[str] = Counter()
"""How often the chosen place was reached, by the variable's value."""


def reach(place: str, before: Callable[[], object] = lambda: None) -> None:
    """Fail here if the environment says so.

    Args:
        place: of `PLACES`.
        before: makes the state on disk that a failure leaves; not called where work goes on.

    Raises:
        OSError: the one that was asked for.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return
    name, action, number = (*chosen.split(":"), "1")[:3]
    if name != place:
        return
    arrivals[chosen] += 1
    if arrivals[chosen] != int(number):
        return
    if action in signal.Signals.__members__:
        if action == "SIGKILL":
            before()
        os.kill(os.getpid(), signal.Signals[action])
    else:
        before()
        code = getattr(errno, action)
        raise OSError(code, os.strerror(code))
