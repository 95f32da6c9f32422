"""The service as it runs: uvicorn, HTTP, processes that are killed, two replicas on one store."""

from __future__ import annotations

import json
import re
import string
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pelican.base.net import sign
from pelican.retrain.trigger.inbox import read_audit
from pelican.storage.store import FolderStore
from tests.retrain.trigger.services import (
    SECRET,
    TOKEN,
    Service,
    event,
    finished_runs,
    notification,
    service,
    store_with_model,
    wait_for,
)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, FolderStore]]:
    """A service whose batches are never due."""
    folder = tmp_path_factory.mktemp("quiet")
    store = store_with_model(folder)
    with service(store, folder / "log", quiet_s=1e6, max_wait_s=1e6, max_body=20000) as running:
        yield running, store


def pending(store: FolderStore) -> int:
    return len(list(store.keys("trigger/pending")))


def signed(body: bytes, request_id: str, stamp: int | None = None) -> dict[str, str]:
    stamp = int(time.time()) if stamp is None else stamp
    return {
        "webhook-id": request_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": sign(SECRET, request_id, stamp, body),
    }


def send(running: Service, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/events/s3", content=body, headers=headers, timeout=300)


BODY = json.dumps(notification(event(7000))).encode()
REFUSED = {
    "unsigned": (BODY, {}, 401, "unsigned"),
    "wrong token": (BODY, {"authorization": "Bearer wrong-token-wrong"}, 401, "wrong_token"),
    "wrongly signed": (
        BODY,
        {**signed(BODY, "a"), "webhook-signature": "v1,AAAA"},
        401,
        "wrong_signature",
    ),
    "signed for another body": (BODY + b" ", signed(BODY, "b"), 401, "wrong_signature"),
    "stale": (BODY, signed(BODY, "c", 1_600_000_000), 401, "stale"),
    "oversized": (BODY + b" " * 20000, {"authorization": f"Bearer {TOKEN}"}, 413, "too_large"),
    "not JSON": (b"{", {"authorization": f"Bearer {TOKEN}"}, 400, "malformed"),
    "no records": (b"{}", {"authorization": f"Bearer {TOKEN}"}, 400, "malformed"),
    "nested deeply": (b"[" * 9000, {"authorization": f"Bearer {TOKEN}"}, 400, "malformed"),
    "not UTF-8": (b'{"Records": "\xff"}', {"authorization": f"Bearer {TOKEN}"}, 400, "malformed"),
    "a record that is none": (
        b'{"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": 5}]}',
        {"authorization": f"Bearer {TOKEN}"},
        400,
        "malformed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_starts_nothing(quiet: tuple[Service, FolderStore], name: str) -> None:
    running, store = quiet
    body, headers, status, reason = REFUSED[name]
    before, audited, counts = pending(store), len(read_audit(store)), counted(running)
    answer = send(running, body, headers)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and "Traceback" not in answer.text
    assert (pending(store), len(read_audit(store))) == (before, audited)
    assert counted(running) - counts == Counter({reason: 1})
    assert "Traceback" not in running.log.read_text()


def counted(running: Service) -> Counter[str]:
    """Requests by what became of them, as Prometheus is told."""
    text = httpx.get(f"{running.url}/metrics", timeout=60).text
    found = re.findall(r'^pelican_trigger_requests_total{result="(\w+)"} (\d+)', text, re.MULTILINE)
    return Counter({result: int(number) for result, number in found})


def test_a_body_without_a_length_is_cut_off_at_the_limit(
    quiet: tuple[Service, FolderStore],
) -> None:
    running, _ = quiet
    chunks = (b" " * 1000 for _ in range(1000))
    with httpx.Client() as client:
        answer = client.post(f"{running.url}/v1/events/s3", content=chunks)
    assert answer.status_code == 413


def test_a_signed_request_counts_once(quiet: tuple[Service, FolderStore]) -> None:
    running, store = quiet
    body, name = json.dumps(notification(event(7100))).encode(), uuid.uuid4().hex
    before = pending(store)
    first, second = (send(running, body, signed(body, name)) for _ in range(2))
    assert (first.status_code, first.json()) == (202, {"new": 1})
    assert second.status_code == 409
    assert pending(store) == before + 1


def test_refusals_are_counted_by_reason(quiet: tuple[Service, FolderStore]) -> None:
    running, _ = quiet
    send(running, BODY, {})
    text = httpx.get(f"{running.url}/metrics").text
    assert 'pelican_trigger_requests_total{result="unsigned"}' in text
    assert httpx.get(f"{running.url}/readyz").status_code == 200
    for page in ("/docs", "/openapi.json", "/redoc"):
        assert httpx.get(f"{running.url}{page}").status_code == 404


def test_a_record_that_nothing_can_mend_is_told_by_readiness(
    quiet: tuple[Service, FolderStore],
) -> None:
    running, store = quiet

    def ready() -> httpx.Response:
        return httpx.get(f"{running.url}/readyz", timeout=60)

    key = f"trigger/pending/{'0' * 32}.json"
    store.write(key, b"{")
    wait_for(lambda: ready().status_code == 503, "it is called ready")
    assert f"{key} is damaged" in ready().json()["status"]
    assert running.post(notification(event(7400))).json() == {"new": 1}, "others are kept"
    store.delete(key)
    wait_for(lambda: ready().status_code == 200, "it is not ready again")


def test_other_buckets_events_are_counted_and_ignored(quiet: tuple[Service, FolderStore]) -> None:
    running, store = quiet
    before = pending(store)
    ignored = [event(1, key=key) for key in ("a.txt", "../up.parquet", "/etc/x.parquet")]
    assert running.post(notification(*ignored)).json() == {"ignored": 3}
    deleted = notification(event(2), name="s3:ObjectRemoved:Delete")
    assert running.post(deleted).json() == {}
    assert running.post({"Event": "s3:TestEvent"}).status_code == 202
    assert pending(store) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(["eventName", "s3", "bucket", "object", "name", "key", "eTag", "size"])
records = st.dictionaries(
    names,
    json_values
    | st.sampled_from(["s3:ObjectCreated:Put", "x.parquet", "..", "\u0000", "%00", "%ZZ"])
    | st.dictionaries(names, json_values | st.dictionaries(names, json_values), max_size=4),
    max_size=5,
)
bodies = st.binary(max_size=200) | st.one_of(
    json_values, st.fixed_dictionaries({"Records": st.lists(records, max_size=3)})
).map(lambda tree: json.dumps(tree).encode("utf-8", "replace"))
header_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(
    body=bodies,
    authorized=st.booleans(),
    headers=st.dictionaries(
        st.sampled_from(
            ["content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "x-y"]
        ),
        header_text,
        max_size=4,
    ),
)
def test_whatever_is_sent_is_answered_and_never_a_server_error(
    quiet: tuple[Service, FolderStore], body: bytes, authorized: bool, headers: dict[str, str]
) -> None:
    running, store = quiet
    before = pending(store)
    if authorized:
        headers = {**headers, "authorization": f"Bearer {TOKEN}"}
    answer = send(running, body, headers)
    let_in = authorized and "webhook-signature" not in headers
    assert answer.status_code in ({202, 400} if let_in else {401}), answer.text
    if not let_in:
        assert pending(store) == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    part=st.sampled_from(["body", "webhook-id", "webhook-timestamp", "webhook-signature"]),
    at=st.integers(0, 10_000),
    by=st.integers(1, 255),
)
def test_a_signed_request_that_was_changed_anywhere_is_refused(
    quiet: tuple[Service, FolderStore], part: str, at: int, by: int
) -> None:
    running, store = quiet
    body = json.dumps(notification(event(7300))).encode()
    headers = signed(body, uuid.uuid4().hex)
    if part == "body":
        at %= len(body)
        body = body[:at] + bytes([body[at] ^ by]) + body[at + 1 :]
    else:
        text = headers[part]
        at %= len(text)
        others = [char for char in string.ascii_letters + string.digits if char != text[at]]
        headers[part] = text[:at] + others[by % len(others)] + text[at + 1 :]
    before = pending(store)
    answer = send(running, body, headers)
    assert answer.status_code == 401, answer.text
    assert list(answer.json()) == ["error"] and pending(store) == before


def test_too_many_requests_are_told_to_wait(tmp_path: Path) -> None:
    with service(store_with_model(tmp_path), tmp_path / "log", rate=0.01, burst=5) as running:
        answers = [running.post(b"{}", token="wrong") for _ in range(8)]
    assert [a.status_code for a in answers] == [401] * 5 + [429] * 3
    assert "retry-after" in answers[-1].headers


def test_two_replicas_and_a_hundred_duplicates_make_one_run(tmp_path: Path) -> None:
    store = store_with_model(tmp_path)
    with (
        service(store, tmp_path / "a.log", quiet_s=1) as one,
        service(store, tmp_path / "b.log", quiet_s=1) as two,
    ):
        told = [notification(event(n)) for n in (2, 0, 1)]

        def post(number: int) -> dict[str, int]:
            answer = (one, two)[number % 2].post(told[number % 3])
            assert answer.status_code == 202
            counted: dict[str, int] = answer.json()
            return counted

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, range(102)))
        assert sum(a.get("new", 0) for a in answers) <= 3
        wait_for(lambda: finished(store) == 1, "no batch was finished")
        time.sleep(0.5)  # for what should not come
    assert len(finished_runs(store)) == 1
    whats = [entry["what"] for entry in read_audit(store)]
    assert (whats.count("sealed"), whats.count("started"), whats.count("done")) == (1, 1, 1)


def finished(store: FolderStore) -> int:
    states = [json.loads(store.read(key))["state"] for key in store.keys("trigger/status")]
    return sum(state in ("done", "failed") for state in states)


@pytest.mark.parametrize("moment", ["before the batch", "while the run goes on"])
def test_a_killed_service_loses_and_doubles_nothing(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with_model(tmp_path)
    slow = moment == "while the run goes on"
    monkeypatch.setenv("MADE_SLOW_S", "2" if slow else "0")
    quiet_s = 0.2 if slow else 1e6
    with service(store, tmp_path / "a.log", quiet_s=quiet_s) as running:
        assert running.post(notification(event(1), event(2))).json() == {"new": 2}
        if slow:
            wait_for(lambda: list(store.keys("trigger/status")), "no batch was claimed")
            wait_for(lambda: "started" in str(read_audit(store)), "no run was started")
        running.kill()
    with service(store, tmp_path / "b.log") as running:
        assert running.post(notification(event(2))).json() == {"duplicate": 1}
        wait_for(lambda: finished(store) == 1, "no batch was finished")
    assert len(finished_runs(store)) == 1


def test_a_backend_that_is_away_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, away = store_with_model(tmp_path), tmp_path / "away"
    away.touch()
    monkeypatch.setenv("MADE_AWAY", str(away))
    with service(store, tmp_path / "log") as running:
        running.post(notification(event(1)))
        wait_for(lambda: "lost" in str(read_audit(store)), "the failure was not seen")
        away.unlink()
        wait_for(lambda: finished(store) == 1, "no batch was finished")
    assert len(finished_runs(store)) == 1
    assert [e["outcome"] for e in read_audit(store) if e["what"] == "done"] == ["no weakness"]


def test_a_store_that_is_away_refuses_events_and_comes_back(tmp_path: Path) -> None:
    store = store_with_model(tmp_path)
    hidden = tmp_path / "hidden"
    with service(store, tmp_path / "log") as running:
        store.root.rename(hidden)
        store.root.write_text("not a folder")
        answer = running.post(notification(event(1)))
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert "Traceback" not in answer.text
        store.root.unlink()
        hidden.rename(store.root)
        assert running.post(notification(event(1))).json() == {"new": 1}
        wait_for(lambda: finished(store) == 1, "no batch was finished")
    assert len(finished_runs(store)) == 1


def test_a_batch_with_a_model_that_is_not_there_fails_with_a_sentence(tmp_path: Path) -> None:
    store = store_with_model(tmp_path)
    with service(store, tmp_path / "log", model="other") as running:
        running.post(notification(event(1)))
        wait_for(lambda: finished(store) == 1, "no batch was finished")
    (failed,) = [e for e in read_audit(store) if e["what"] == "failed"]
    assert "other" in failed["outcome"]
    assert finished_runs(store) == []


def test_no_secret_is_kept_or_logged(quiet: tuple[Service, FolderStore]) -> None:
    running, store = quiet
    running.post(notification(event(7200)))
    kept = b"".join(store.read(key) for key in store.keys("trigger")) + running.log.read_bytes()
    assert kept and TOKEN.encode() not in kept and SECRET.encode() not in kept
