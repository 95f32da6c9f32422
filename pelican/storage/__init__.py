"""Stores: objects below a prefix, in a folder or in S3; manifests, claims and checkpoints in them."""

from __future__ import annotations

from pathlib import Path

from pelican.base.address import refuse_credentials
from pelican.errors import UserInputError
from pelican.storage.store import FolderStore, ObjectStore


def open_store(uri: str) -> ObjectStore:
    """The store at a folder's path, a `file://` URI, or `s3://bucket/prefix`.

    Raises:
        UserInputError: another scheme, credentials in the address, or a path that is a file.
    """
    _refuse(uri)
    if uri.startswith("file://"):
        return FolderStore(uri.removeprefix("file://"))
    if uri.startswith("s3://"):
        from pelican.storage.s3 import S3Store

        return S3Store(uri)
    if "://" in uri:
        raise UserInputError(
            f"store {uri!r} has a scheme that is not supported; use a folder or s3://bucket/prefix"
        )
    if Path(uri).is_file():
        raise UserInputError(
            f"the store {uri} is a file; give a folder with --store or PELICAN_STORE"
        )
    return FolderStore(uri)


def open_uri(uri: str) -> tuple[ObjectStore, str]:
    """The bucket of `s3://bucket/key` as a store, and the key."""
    _refuse(uri)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return open_store(f"s3://{bucket}"), key.strip("/")


def _refuse(uri: str) -> None:
    refuse_credentials(
        uri, "an address of a store", "set AWS_ACCESS_KEY_ID and the other variables"
    )


def local_path(where: str) -> Path:
    """The path `where` itself, or for an s3:// URI the path of its copy on this machine.

    Raises:
        KeyError: there is no such object, nor one below it.
    """
    if "://" not in where:
        return Path(where)
    store, key = open_uri(where)
    return store.local(key)
