"""The errors a person sees: one sentence that names the thing, the value and the way out."""


class PelicanError(Exception):
    """Base of every error that is reported as one sentence, without a traceback."""

    exit_code = 1


class UserInputError(PelicanError):
    """The recipe, the data or the command line is wrong; trying again changes nothing."""

    exit_code = 2


class RefusedError(UserInputError):
    """This user may not do that there: a disk or a bucket that one may only read."""


class InfrastructureError(PelicanError):
    """A store, a node or a network failed; trying again may help."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class LostPeerError(InfrastructureError):
    """Another process of the job is gone: what followed from its end, not why it ended."""


class DamagedError(PelicanError):
    """What the store holds is not what was written; the sentence names the object.

    Whoever can do without the object, or make it again, catches this; the same command alone
    changes nothing, so nobody tries it again by itself.
    """

    exit_code = 2

    def __init__(self, message: str, place: str = "") -> None:
        """`place`: the prefix whose record says otherwise, if one does."""
        super().__init__(message)
        self.place = place


STAGE_DAMAGED = 74  # EX_IOERR: how a stage's process tells its launcher of a DamagedError


class ResourceError(PelicanError):
    """Memory ran out; trying again smaller may help."""

    exit_code = 77
