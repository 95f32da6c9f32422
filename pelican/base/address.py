"""Addresses: they are kept, shown and logged, so none may hold a user or password."""

from __future__ import annotations

import re

from pelican.errors import UserInputError


def holds_credentials(address: str) -> bool:
    """Whether an address such as `https://user:pass@host` or `s3://KEY:SECRET@bucket` holds some.

    A secret may have a slash, a question mark or a number sign in it, which then looks like the end of
    the host, and a colon.
    """
    _, there, rest = address.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = host.rpartition("]")[2].partition(":")[2]  # all behind the first colon: a host has one
    return bool(there) and ("@" in host or ("@" in rest and bool(port) and not port.isdecimal()))


def refuse_credentials(address: str, what: str, instead: str) -> None:
    """Check an address before it is kept or shown.

    Args:
        address: what was given.
        what: its name in the sentence, which does not show the value.
        instead: where credentials belong.

    Raises:
        UserInputError: it holds a user or password.
    """
    if holds_credentials(address):
        raise UserInputError(
            f"{what} holds a user or password, and addresses are kept and shown; {instead} instead"
        )
