"""The errors a person sees: one sentence that names the thing, the value and the way out."""


class PelicanError(Exception):
    """Base of every error that is reported as one sentence, without a traceback."""

    exit_code = 1


class UserInputError(PelicanError):
    """The recipe, the data or the command line is wrong; trying again changes nothing."""

    exit_code = 2


class InfrastructureError(PelicanError):
    """A store, a node or a network failed; trying again may help."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class ResourceError(PelicanError):
    """Memory ran out; trying again smaller may help."""

    exit_code = 77
