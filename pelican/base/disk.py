"""What a disk that is full, broken or not to be written means to a person."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pelican.errors import InfrastructureError, PelicanError, RefusedError, UserInputError


@dataclass(frozen=True)
class _Meaning:
    """The kind of error, what is wrong, the way out; `said`: how libraries put it that hide the number."""

    kind: type[PelicanError]
    what: str
    mend: str
    said: tuple[str, ...] = ()


_AGAIN = "the same command continues"
_RIGHTS = "give this user the rights, or choose another place"
_MEANINGS = {
    errno.ENOSPC: _Meaning(
        InfrastructureError,
        "the disk is full",
        f"free some space, then {_AGAIN}",
        ("No space left on device", "os error 28", "PytorchStreamWriter failed writing"),
    ),
    errno.EDQUOT: _Meaning(
        InfrastructureError,
        "the disk's quota is used up",
        f"free some space, then {_AGAIN}",
        ("Disk quota exceeded", "os error 122"),
    ),
    errno.EIO: _Meaning(
        InfrastructureError,
        "the disk had an error",
        f"look at the machine's log; if it was for a moment, {_AGAIN}",
        ("Input/output error", "os error 5)"),
    ),
    errno.ESTALE: _Meaning(
        InfrastructureError,
        "its network disk was mounted anew",
        _AGAIN,
        ("Stale file handle", "os error 116"),
    ),
    errno.EFBIG: _Meaning(
        UserInputError,
        "it would be larger than this process or this disk allows",
        "raise the limit (`ulimit -f`), or choose another disk",
        ("File too large", "os error 27"),
    ),
    errno.EROFS: _Meaning(
        RefusedError,
        "the disk may only be read",
        _RIGHTS,
        ("Read-only file system", "os error 30"),
    ),
    errno.EACCES: _Meaning(
        RefusedError, "no permission", _RIGHTS, ("Permission denied", "os error 13")
    ),
    errno.EPERM: _Meaning(RefusedError, "no permission", _RIGHTS),
}


def explain_disk(error: BaseException) -> PelicanError | None:
    """The sentence for an error of a disk, also where a library wrapped it; None for any other."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        meaning = _meaning(cause)
        if meaning is not None:
            name = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
            where = f"{name}: " if name else ""
            return meaning.kind(f"{where}{meaning.what}; {meaning.mend}")
        cause = cause.__cause__ or cause.__context__
    return None


def _meaning(error: BaseException) -> _Meaning | None:
    if isinstance(error, OSError) and error.errno is not None:
        return _MEANINGS.get(error.errno)
    text = str(error)
    return next((m for m in _MEANINGS.values() if any(word in text for word in m.said)), None)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of a disk inside into one sentence each; others pass as they are."""
    try:
        yield
    except PelicanError:
        raise
    except Exception as error:
        meant = explain_disk(error)
        if meant is None:
            raise
        raise meant from error
