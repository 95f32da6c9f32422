"""Large objects as files: ranges in parallel, memory bounded by a few buffers."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minio import Minio
from minio.error import S3Error

from pelican.storage.s3_client import again, lost_condition

PART = 16 << 20  # bytes of one part or range
RANGES = 4  # of one file on their way at a time
_BLOCK = 1 << 20
_SHA256 = "x-amz-meta-sha256"


def download(client: Minio, bucket: str, name: str, target: Path) -> tuple[str, str | None]:
    """Write an object to `target`, under a temporary name first.

    Returns its entity tag and the SHA-256 that its writer noted, if it did. All ranges are of one
    version: if it is replaced on the way, the new one is fetched.
    """
    while True:
        try:
            return _download(client, bucket, name, target)
        except S3Error as error:
            if not lost_condition(error):
                raise


def _download(client: Minio, bucket: str, name: str, target: Path) -> tuple[str, str | None]:
    found = client.stat_object(bucket, name)
    size, tag = int(found.size or 0), str(found.etag).strip('"')
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, size)

        def fetch(start: int) -> None:
            again(lambda: _range(client, bucket, name, tag, descriptor, start, size))

        with ThreadPoolExecutor(RANGES) as threads:
            list(threads.map(fetch, range(0, size, PART)))
        os.fsync(descriptor)
        temporary.replace(target)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    return tag, (found.metadata or {}).get(_SHA256)


def _range(
    client: Minio, bucket: str, name: str, tag: str, descriptor: int, start: int, size: int
) -> None:
    length = min(PART, size - start)
    response = client.get_object(
        bucket, name, start, length, request_headers={"If-Match": f'"{tag}"'}
    )
    try:
        at = start
        for block in response.stream(_BLOCK):
            os.pwrite(descriptor, block, at)
            at += len(block)
        if at != start + length:
            raise ConnectionError(f"{bucket}/{name} broke off after {at - start} bytes")
    finally:
        response.close()
        response.release_conn()
