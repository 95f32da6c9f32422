"""Files as objects: parts in parallel, their digest beforehand, continued where one broke off."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from minio import Minio
from minio.datatypes import Part
from minio.error import S3Error

from pelican.errors import InfrastructureError
from pelican.storage.identity import Identity
from pelican.storage.s3_client import again
from pelican.storage.transfer import PART, SHA256

_TRIES = 3  # with a file that changes, or an upload that somebody ends
_MOST_PARTS = 10_000  # of one object, by S3
_MB = 1 << 20


@dataclass(frozen=True)
class Sent:
    """A file that became an object: what the file was, and the object's entity tag."""

    identity: Identity
    tag: str


@dataclass(frozen=True)
class Uploader:
    """Sends files to one bucket. `notes`: a folder where it notes parts that have been sent.

    Another process of this machine, sent the same file again after a crash, sends the other parts.
    """

    client: Minio
    bucket: str
    notes: Path

    def send(self, path: Path, name: str, headers: Mapping[str, str], parallel: int) -> Sent:
        """Upload a file, its SHA-256 with it.

        Holds `parallel` parts in memory. One that fits a part is read once: what was there then is
        sent. A larger one must stay as it is meanwhile: if it does not it is sent again, and
        InfrastructureError is raised if that does not help. No half object is ever seen.
        """
        for _ in range(_TRIES):
            with path.open("rb", buffering=0) as file:
                before = Identity.of(file.fileno())
                if before.size <= PART:
                    tag = self._whole(file.read(), name, headers)
                else:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    parts = _Multipart(self, name, {**headers, SHA256: digest}, before)
                    try:
                        tag = parts.send(file.fileno(), parallel)
                    except _Other:
                        continue
            return Sent(before, tag)
        raise InfrastructureError(
            f"{path} did not stay as it was while it was uploaded, {_TRIES} times;"
            " upload it when nothing writes to it"
        )

    def _whole(self, data: bytes, name: str, headers: Mapping[str, str]) -> str:
        noted = {**headers, SHA256: hashlib.sha256(data).hexdigest()}
        done = again(lambda: self.client._put_object(self.bucket, name, data, dict(noted)))
        return str(done.etag)


class _Other(Exception):
    """It is not the file, or not the upload, any more that it was."""


class _Multipart:
    """One file in parts. Its note: a line of what is sent, then one for each part's number and tag."""

    def __init__(
        self, uploader: Uploader, name: str, headers: dict[str, str], identity: Identity
    ) -> None:
        self._client, self._bucket = uploader.client, uploader.bucket
        self._name, self._headers, self._identity = name, headers, identity
        size = identity.size
        self._part = max(PART, -(-size // (_MOST_PARTS * _MB)) * _MB)
        self._count = -(-size // self._part)
        self._what = {"name": name, "headers": headers, "size": size, "part": self._part}
        self._note = uploader.notes / hashlib.sha256(name.encode()).hexdigest()[:24]
        self._noting = threading.Lock()

    def send(self, descriptor: int, parallel: int) -> str:
        """The entity tag. Raises _Other, and no object is there, if the file changed meanwhile."""
        upload, tags = self._resume() or (self._begin(), {})
        missing = deque(n for n in range(1, self._count + 1) if n not in tags)

        def work() -> None:
            buffer = memoryview(bytearray(self._part))
            try:
                while number := _next(missing):
                    tags[number] = self._put(upload, number, self._read(descriptor, buffer, number))
            except BaseException:
                missing.clear()  # the others end too
                raise

        try:
            with ThreadPoolExecutor(parallel) as threads:
                for worker in [threads.submit(work) for _ in range(min(parallel, len(missing)))]:
                    worker.result()
            if Identity.of(descriptor) != self._identity:
                raise _Other
            return self._complete(upload, tags)
        except _Other:
            self._abort(upload)
            raise
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            self._note.unlink(missing_ok=True)
            raise _Other from None  # somebody ended it: a bucket's rule, or another process

    def _read(self, descriptor: int, buffer: memoryview, number: int) -> bytes:
        at, read = (number - 1) * self._part, 0
        length = min(self._part, self._identity.size - at)
        while read < length:
            more = os.preadv(descriptor, [buffer[read:length]], at + read)
            if not more:
                raise _Other
            read += more
        return cast(bytes, buffer[:length])  # the client takes any buffer: no copy of each part

    def _begin(self) -> str:
        self._note.parent.mkdir(parents=True, exist_ok=True)
        upload = self._client._create_multipart_upload(
            self._bucket, self._name, dict(self._headers)
        )
        self._note.write_text(json.dumps({**self._what, "upload": upload}) + "\n")
        return upload

    def _put(self, upload: str, number: int, part: bytes) -> str:
        tag = again(
            lambda: self._client._upload_part(self._bucket, self._name, part, None, upload, number)
        )
        with self._noting, self._note.open("a") as file:
            file.write(json.dumps({"number": number, "tag": tag}) + "\n")
        return tag

    def _complete(self, upload: str, tags: Mapping[int, str]) -> str:
        parts = [Part(number, tags[number]) for number in sorted(tags)]
        done = again(
            lambda: self._client._complete_multipart_upload(self._bucket, self._name, upload, parts)
        )
        if not done.etag:  # S3 may say an error after a status of 200
            raise InfrastructureError(f"s3://{self._bucket}/{self._name} was not put together")
        self._note.unlink(missing_ok=True)
        return done.etag.strip('"')

    def _abort(self, upload: str) -> None:
        self._note.unlink(missing_ok=True)
        with suppress(S3Error):  # it may be gone; the bucket's rules clear what is left
            self._client._abort_multipart_upload(self._bucket, self._name, upload)

    def _resume(self) -> tuple[str, dict[int, str]] | None:
        """An upload of the same content that broke off, and its parts that the store still has."""
        upload, noted = self._noted()
        if upload is None:
            return None
        try:
            there = self._there(upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            return None
        return upload, {number: tag for number, tag in noted.items() if there.get(number) == tag}

    def _noted(self) -> tuple[str | None, dict[int, str]]:
        """What the note says. An upload of other content is ended."""
        try:
            first, *lines = self._note.read_text().splitlines()
            what = json.loads(first)
            upload = str(what.pop("upload"))
        except (OSError, ValueError, KeyError):
            return None, {}
        if what != self._what:
            self._abort(upload)
            return None, {}
        noted = {}
        for line in lines:
            with suppress(ValueError, KeyError):  # the last one may be torn
                part = json.loads(line)
                noted[int(part["number"])] = str(part["tag"])
        return upload, noted

    def _there(self, upload: str) -> dict[int, str]:
        """Tags of the parts that the store has."""
        found: dict[int, str] = {}
        after: str | None = None
        while True:
            page = self._client._list_parts(
                self._bucket, self._name, upload, part_number_marker=after
            )
            found |= {part.part_number: part.etag.strip('"') for part in page.parts}
            if not page.is_truncated:
                return found
            after = str(page.next_part_number_marker)


def _next(missing: deque[int]) -> int | None:
    try:
        return missing.popleft()
    except IndexError:
        return None
