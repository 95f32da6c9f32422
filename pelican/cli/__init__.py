"""What the command line does; `pelican.cli.main` only reads the arguments."""

import sys
from types import TracebackType

STOPPED = "error: stopped by Ctrl-C"


def _say_stopped(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Ctrl-C before the command has begun, while it imports: a sentence, too, and the signal's own end."""
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, at)


sys.excepthook = _say_stopped
