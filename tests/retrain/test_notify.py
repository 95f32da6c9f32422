"""The notice of a verdict: what is sent to a real receiver, signed, and when it is not sent again."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from pelican.retrain.notify import notify, send
from pelican.retrain.records import Verdict, write_verdict
from pelican.retrain.trigger.service import authenticate
from pelican.storage.manifests import now
from pelican.storage.store import FolderStore
from tests.endpoints import Request, serving

SECRET = "a-secret-of-the-tests"


@dataclass
class Receiver:
    """Keeps what it is sent; answers with the statuses it was given, then with 200."""

    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def take(self, request: Request) -> tuple[int, bytes]:
        self.got.append((request.headers, request.body))
        return (self.statuses.pop(0) if self.statuses else 200), b""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.take) as address:
        monkeypatch.setenv("PELICAN_NOTIFY_URL", f"{address}/hook")
        monkeypatch.setenv("PELICAN_NOTIFY_SECRET", SECRET)
        monkeypatch.setenv("PELICAN_NOTIFY_LINK", "https://pelican.example/runs/{run}")
        monkeypatch.setattr("pelican.retrain.notify.WAIT_S", 0.0)
        yield receiver


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    found = FolderStore(tmp_path)
    verdict = Verdict(
        outcome="refused",
        run="r",
        data="d-1",
        parent="tiny:1",
        version="tiny:2",
        reasons=["gain: none"],
        at=now(),
    )
    write_verdict(found, verdict)
    return found


def test_a_verdict_is_sent_once_signed_with_reasons_and_a_link(
    receiver: Receiver, store: FolderStore
) -> None:
    assert notify(store, "r") == "sent"
    ((headers, body),) = receiver.got
    sender = authenticate(headers, body, [], [SecretStr(SECRET)], 300, time.time())
    assert sender.request_id == "r-refused"
    told = json.loads(body)
    assert told["text"].splitlines() == [
        "tiny:2 on d-1: refused",
        "- gain: none",
        "https://pelican.example/runs/r",
    ]
    assert notify(store, "r") == "sent before" and len(receiver.got) == 1


def test_a_failed_run_is_told_of_too(receiver: Receiver, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "other")
    failure = {"stage": "preflight", "loop": 0, "phase": "base", "kind": "UserInputError"}
    failure |= {"exit_code": 2, "message": "the pool is empty"}
    store.write("runs/r/failure.json", json.dumps(failure).encode())
    assert notify(store, "r") == "sent"
    assert "failed: the pool is empty" in json.loads(receiver.got[0][1])["text"]


@pytest.mark.parametrize(
    ("statuses", "result", "tries"),
    [([500, 503], "sent", 3), ([500] * 9, "the receiver answered 500", 3), ([404], "404", 1)],
)
def test_a_receivers_error_is_tried_again_and_ends_no_run(
    receiver: Receiver, store: FolderStore, statuses: list[int], result: str, tries: int
) -> None:
    receiver.statuses = statuses
    said = notify(store, "r")
    assert said is not None and result in said and len(receiver.got) == tries


def test_nobody_is_told_without_an_address_or_with_a_wrong_one(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notify(store, "r") is None
    monkeypatch.setenv("PELICAN_NOTIFY_URL", "file:///etc/passwd")
    assert "not an http address" in str(notify(store, "r"))


BAD_ADDRESSES = [
    "",
    "no address",
    "//host/hook",
    "ftp://127.0.0.1/TOKEN",
    "http:///TOKEN",
    "http://[::1/TOKEN",
    "http://[x]/TOKEN",
    "http://127.0.0.1:99999999/TOKEN",
    "http://127.0.0.1:port/TOKEN",
    "http://user:word@127.0.0.1:1/TOKEN",
    "http://127.0.0.1:1/TO KEN",
    "http://127.0.0.1:1/TOKEN\n",
    "http://127.0.0.1:1/TOKEN\r\nX: y",
    "http://127.0.0.1:1/TOKEN\udc80",
    "http://127.0.0.1:1/TOKENü",
    "http://" + "a" * 70 + ".invalid/TOKEN",
    "http://a..b.invalid/TOKEN",
    "http://127.0.0.1:1/TOKEN",
    "https://127.0.0.1:1/TOKEN",
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_a_bad_address_ends_no_run_and_is_not_told(
    address: str, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelican.retrain.notify.WAIT_S", 0.0)
    said = send(address, {"text": "x"}, SECRET, "r-refused")
    assert said and said != "sent" and "\n" not in said
    assert "TOKEN" not in said and "word" not in said and SECRET not in said


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A receiver of bytes, which may answer anything."""
    over = threading.Event()

    def take(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            answer(connection)

    def accept() -> None:
        while not over.is_set():
            with suppress(OSError):
                threading.Thread(target=take, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        over.set()


def says(data: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(data)


def for_ever(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        while True:
            connection.sendall(data)
            time.sleep(0.01)

    return answer


def redirected(to: str) -> Callable[[socket.socket], None]:
    return says(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())


BAD_RECEIVERS: dict[str, Callable[[socket.socket], None]] = {
    "closes": says(b""),
    "is no HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "has no status": says(b"HTTP/1.1\r\n\r\n"),
    "has a status that is no number": says(b"HTTP/1.1 ok ok\r\n\r\n"),
    "has a status of six digits": says(b"HTTP/1.1 999999 no\r\n\r\n"),
    "is cut in the status": says(b"HTT"),
    "is binary": says(bytes(range(256)) * 40),
    "has a line without an end": says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
    "has a thousand headers": says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"),
    "drips": for_ever(b"H"),
    "continues for ever": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "is silent": lambda connection: time.sleep(5),
    "redirects to no address": redirected("http://[x"),
    "redirects to a file": redirected("file:///etc/passwd"),
    "redirects to itself": redirected("/hook"),
    "redirects to a port that is none": redirected("http://127.0.0.1:99999999/"),
}


@pytest.mark.parametrize("name", BAD_RECEIVERS)
def test_a_bad_receiver_ends_no_run_and_does_not_hold_it(
    name: str, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, value in {"WAIT_S": 0.0, "TIMEOUT_S": 0.2, "ANSWER_S": 0.4}.items():
        monkeypatch.setattr(f"pelican.retrain.notify.{setting}", value)
    with listening(BAD_RECEIVERS[name]) as address:
        monkeypatch.setenv("PELICAN_NOTIFY_URL", address)
        said = notify(store, "r")
    assert said and said != "sent" and "\n" not in said
    assert json.loads(store.read("runs/r/notification.json"))["result"] == said


@pytest.mark.parametrize("key", ["verdict.json", "notification.json", "failure.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"null", b"[" * 200_000])
def test_a_damaged_record_ends_no_run(
    receiver: Receiver, tmp_path: Path, store: FolderStore, key: str, data: bytes
) -> None:
    if key == "failure.json":
        store.delete("runs/r/verdict.json")
    store.write(f"runs/r/{key}", data)
    assert notify(store, "r")


def test_a_secret_that_is_no_text_and_a_store_that_is_away_end_no_run(
    receiver: Receiver, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not" in send("http://127.0.0.1:1/", {}, "\udc80", "r") and receiver.got == []
    store.root.rename(store.root.with_name("hidden"))
    store.root.write_text("no folder")
    assert str(notify(store, "r")).startswith("not sent")
