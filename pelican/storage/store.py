"""The interface of stores, and a folder as a store; `s3.py` has the bucket."""

from __future__ import annotations

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pelican.base.disk import explained
from pelican.base.files import lock_file, replacement
from pelican.base.metrics import STORE_BYTES
from pelican.errors import DamagedError, RefusedError, UserInputError
from pelican.storage.digests import file_digest, file_digests, known_digests

_LOCK = ".lock.tmp"
MANIFEST = "manifest.json"  # of a stage, written last: `manifests.py`
WORK = "work/"  # below a stage's prefix: for its next attempt, no part of its result


class ObjectStore(ABC):
    """Objects by key; a key is a relative POSIX path without `..`.

    A file written below `local_root` is in the store at once if the store is a folder; in a remote
    one it is after `put` or `upload`.
    """

    uri: str
    remote = False

    @abstractmethod
    def probe(self) -> None:
        """Ask once. Raises UserInputError or InfrastructureError if the store is not there."""

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Raises KeyError if there is no such object."""

    @abstractmethod
    def read_tagged(self, key: str, *, checked: bool = True) -> tuple[bytes, str]:
        """The object, and its entity tag for `write(if_tag=...)`.

        Args:
            key: of the object.
            checked: whether a store that knows its digest compares it. False is for who judges the bytes
                himself and puts others in their place: he gets them as they are, none if they are lost.

        Raises:
            KeyError: there is none.
            DamagedError: it was compared, and is not what was written.
        """

    @abstractmethod
    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_tag: str | None = None
    ) -> bool:
        """Write an object atomically, and say whether it was written.

        Args:
            key: of the object.
            data: its bytes.
            if_absent: write only if there is no such object.
            if_tag: write only if the object has this entity tag; one that is gone has not.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys at or below `prefix`, sorted, without temporary files."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object, or all below a prefix: manifests first, so that none lacks its files."""

    @abstractmethod
    def move(self, prefix: str, target: str) -> None:
        """Move all below `prefix` to `target`, in place of what is there; manifests leave first."""

    @abstractmethod
    def put(self, key: str, path: Path) -> None:
        """Upload one file, atomically."""

    @abstractmethod
    def local(self, key: str) -> Path:
        """A local path of the object, or of the folder below `key`; downloaded if needed.

        A downloaded folder is without its `work/`. Raises KeyError.
        """

    def known_digests(self, keys: Iterable[str]) -> dict[str, str]:
        """SHA-256 of those objects whose bytes lie on this machine and were read here before."""
        return {}

    def copies_here(self, key: str) -> list[Path]:
        """Where this machine may have earlier copies of an object, besides the store."""
        return []

    @abstractmethod
    def place(self, prefix: str) -> Path:
        """Where the local folder that stands for `prefix` is, or would be: nothing is made."""

    def local_root(self, prefix: str) -> Path:
        """A local folder that stands for `prefix`; what is written there can be `put` later."""
        path = self.place(prefix)
        with explained():
            path.mkdir(parents=True, exist_ok=True)
        return path

    def restore(self, prefix: str) -> Path:
        """`local_root(prefix)`, holding exactly what the store has there."""
        return self.local_root(prefix)

    def upload(self, prefix: str, *, skip: tuple[str, ...] = ()) -> None:
        """Put the files below `local_root(prefix)`, without `work/` and the names in `skip`."""
        return  # a folder's store has it already

    def sync(self, keys: Iterable[str]) -> None:
        """Make sure that these objects outlast a power cut."""
        return  # a remote store promises it when it answers

    def abandoned(self) -> dict[str, tuple[int, float]]:
        """Temporary files that killed writers left, by key: bytes, and when they were last written."""
        return {}

    def describe(self, key: str) -> tuple[int, str]:
        """Bytes and SHA-256 of an object. Raises KeyError."""
        path = self.local(key)
        return path.stat().st_size, file_digest(path)

    def describe_all(self, keys: Iterable[str]) -> dict[str, tuple[int, str]]:
        """`describe` of each of these objects."""
        return {key: self.describe(key) for key in keys}

    @abstractmethod
    def digests(self, keys: Iterable[str], *, trust: bool = True) -> dict[str, str | None]:
        """SHA-256 of the bytes of these objects as they are read here; None for one that can't be.

        Args:
            keys: of the objects.
            trust: whether a digest that this machine noted counts for a file that looks the same;
                False reads every byte.
        """

    @abstractmethod
    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of each object below `prefix`."""

    @abstractmethod
    def ages(self, prefix: str) -> dict[str, float]:
        """When each object below `prefix` was last written, in seconds since 1970."""

    def tags(self, prefix: str) -> dict[str, str]:
        """For each key at or below `prefix`, a tag that changes when the object does."""
        return {key: self.describe(key)[1] for key in self.keys(prefix)}

    def entries(self, prefix: str) -> dict[str, tuple[str, float]]:
        """The tag and the age of each object at or below `prefix`, from one listing if possible."""
        ages = self.ages(prefix)
        return {key: (tag, ages[key]) for key, tag in self.tags(prefix).items() if key in ages}


class FolderStore(ObjectStore):
    """A folder of this machine. Writes go to a temporary name and are renamed."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.uri = str(self.root)

    def probe(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserInputError(
                f"the store {self.uri} can't be made: {error.strerror}; give another folder with"
                " --store or PELICAN_STORE"
            ) from None
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise RefusedError(
                f"the store {self.uri} may only be read; give this user the rights, or another"
                " folder with --store or PELICAN_STORE"
            )

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if key.startswith("/") or ".." in parts:
            raise UserInputError(f"object key {key!r} leaves the store; use a relative path")
        return self.root.joinpath(*parts)

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def read(self, key: str) -> bytes:
        try:
            with explained():
                data = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):  # the latter: a key below an object's
            raise KeyError(key) from None
        except IsADirectoryError:
            raise DamagedError(
                f"{self.uri}/{key} is a folder, and should be a file; move it away"
            ) from None
        STORE_BYTES.inc(len(data), direction="read")
        return data

    def read_tagged(self, key: str, *, checked: bool = True) -> tuple[bytes, str]:
        data = self.read(key)
        return data, _tag(data)

    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_tag: str | None = None
    ) -> bool:
        path = self._path(key)
        with explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacement(path) as temporary:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                STORE_BYTES.inc(len(data), direction="write")
                if if_tag is not None:
                    return self._swap(path, temporary, if_tag)
                if if_absent:
                    return _link(temporary, path)
                temporary.replace(path)
        return True

    def _swap(self, path: Path, temporary: Path, tag: str) -> bool:
        """Replace `path` by `temporary` if the file there still has this tag."""
        with lock_file(path.with_name(f".{path.name}{_LOCK}")):
            try:
                if _tag(path.read_bytes()) != tag:
                    return False
            except FileNotFoundError:
                return False
            temporary.replace(path)
        return True

    def keys(self, prefix: str = "") -> Iterator[str]:
        base = self._path(prefix) if prefix else self.root
        if base.is_file():
            yield prefix
            return
        for path in sorted(base.rglob("*")):
            if path.is_file() and not path.name.endswith(".tmp"):
                yield path.relative_to(self.root).as_posix()

    def sizes(self, prefix: str) -> dict[str, int]:
        return {key: about.st_size for key, about in self._stats(prefix)}

    def ages(self, prefix: str) -> dict[str, float]:
        return {key: about.st_mtime for key, about in self._stats(prefix)}

    def _stats(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        for key in self.keys(prefix):
            with suppress(FileNotFoundError):  # deleted just now
                yield key, self._path(key).stat()

    @explained()
    def sync(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        for path in (*paths, *{path.parent for path in paths}):  # a folder's entries are its own
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def abandoned(self) -> dict[str, tuple[int, float]]:
        found = {}
        for path in self.root.rglob(".*.tmp"):
            if path.is_file() and not path.name.endswith(_LOCK):
                about = path.stat()
                key = path.relative_to(self.root).as_posix()
                found[key] = (about.st_size, about.st_mtime)
        return found

    @explained()
    def delete(self, key: str) -> None:
        path = self._path(key)
        if path.is_dir():
            for manifest in path.rglob(MANIFEST):
                manifest.unlink(missing_ok=True)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @explained()
    def move(self, prefix: str, target: str) -> None:
        self.delete(target)
        there = self._path(target)
        there.parent.mkdir(parents=True, exist_ok=True)
        self._path(prefix).rename(there)

    def describe_all(self, keys: Iterable[str]) -> dict[str, tuple[int, str]]:
        paths = {key: self.local(key) for key in keys}
        found = file_digests(paths.values(), trust=False)
        return {key: (path.stat().st_size, found[path]) for key, path in paths.items()}

    def digests(self, keys: Iterable[str], *, trust: bool = True) -> dict[str, str | None]:
        paths = {key: self._path(key) for key in keys}
        there = [path for path in paths.values() if path.is_file()]
        try:
            found = file_digests(there, trust=trust)
        except OSError:  # a sector that can't be read, or a file deleted just now: one by one
            found = {path: digest for path in there if (digest := _digest_or_none(path))}
        return {key: found.get(path) for key, path in paths.items()}

    def put(self, key: str, path: Path) -> None:
        target = self._path(key)
        STORE_BYTES.inc(path.stat().st_size, direction="write")
        if target == path.absolute():
            return
        with explained():
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacement(target) as temporary:
                shutil.copyfile(path, temporary)
                temporary.replace(target)

    def local(self, key: str) -> Path:
        path = self._path(key)
        if not path.exists():
            raise KeyError(key)
        return path

    def place(self, prefix: str) -> Path:
        return self._path(prefix)

    def known_digests(self, keys: Iterable[str]) -> dict[str, str]:
        paths = {self._path(key): key for key in keys}
        found = known_digests(path for path in paths if path.is_file())
        return {paths[path]: digest for path, digest in found.items()}


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its name unless that is taken: two writers can't both win."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
