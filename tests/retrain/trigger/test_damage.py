"""A damaged object of the trigger is never believed, stops nothing, and loses and doubles no event."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican import errors
from pelican.errors import UserInputError
from pelican.retrain.plan import Plan
from pelican.retrain.records import Verdict, find_version, read_verdict, write_verdict
from pelican.retrain.trigger.config import Metrics, TriggerConfig
from pelican.retrain.trigger.inbox import AUDIT, Inbox, read_audit, record, rotate
from pelican.retrain.trigger.poll import WATERMARK, poll
from pelican.retrain.trigger.records import DamagedError
from pelican.retrain.trigger.worker import TIDIED, CommandSubmitter, Status, Worker, is_due
from pelican.storage.manifests import now
from pelican.storage.store import FolderStore
from tests.retrain.trigger.services import Clock, event, store_with_model

CONFIG = TriggerConfig.model_validate(
    {"quiet_s": 10, "lease_s": 30, "backoff_s": 5, "prefix": "incoming/", "source": "/fleet"}
)


class Runs:
    """Runs that end when the test says so; each is counted by its name."""

    def __init__(self, store: FolderStore) -> None:
        self.store = store
        self.started: list[str] = []
        self.ending = True

    def plan(self, data: str, model: str) -> Plan:
        return Plan(f"run-{data[-10:]}", data, model, [], False)

    def start(self, data: str, model: str, run: str) -> None:
        self.started.append(run)

    def look(self, run: str) -> tuple[str, str]:
        if not self.ending:
            return "running", ""
        verdict = Verdict(
            outcome="refused", run=run, data="d", parent="tiny:1", reasons=["r"], at=now()
        )
        write_verdict(self.store, verdict)
        return "complete", ""

    def stop(self) -> None:
        return None


def life(store: FolderStore, strike: Callable[[str], None] = lambda moment: None) -> list[str]:
    """Three batches from their events to their end; `strike` is called in between, by moments."""
    runs, clock = Runs(store), Clock()
    one = Worker(store, CONFIG, runs, Metrics(), clock)
    events = {"first": [0, 1], "second": [2], "third": [3, 4, 5]}
    for name, numbers in events.items():
        runs.ending = name == "first"
        for number in numbers:
            one.inbox.receive(event(number))
        strike(f"{name} waits")
        clock.now += 20
        tick(one)
        strike(f"{name} is sealed")
        tick(one)
    runs.ending = True
    settle(one, clock)
    for number in range(6):  # all are sent again, as after an answer that was lost
        one.inbox.receive(event(number))
    settle(one, clock)
    assert one.all_finished() and one.inbox.pending() == [], one.trouble
    assert one.trouble == ""
    assert len(set(runs.started)) == len(runs.started), "a run was started twice"
    return runs.started


def settle(one: Worker, clock: Clock) -> None:
    """Until all is done that can be; a status may take a lease."""
    for _ in range(20):
        clock.now += 20
        tick(one)
        if not one.trouble and one.idle():
            return


def tick(one: Worker) -> None:
    """As `Worker.run` does: what a tick raises is told, and the next one tries again."""
    try:
        one.tick()
    except DamagedError as error:
        one.trouble = str(error)


def sealed(store: FolderStore) -> Counter[str]:
    """How often each key is in what the runs of all batches learn from."""
    box = Inbox(store, CONFIG)
    head, _ = box.settle()
    assert head is not None
    batches = [box.batch(number) for number in range(1, head.number + 1)]
    for batch in batches:
        box.restore_data(batch)
    return Counter(o.key for b in batches for o in find_version(store, b.data or "").objects)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "an empty object": lambda data: b"{}",
    "a list": lambda data: b"[]",
    "null": lambda data: b"null",
    "another type": lambda data: b'{"event": 5, "number": "x", "batch": []}',
    "nested without end": lambda data: b"[" * 200_000,
    "zeros": lambda data: bytes(len(data)),
    "no UTF-8": lambda data: b"\xff" + data[1:],
}
MOMENTS = [f"{n} {what}" for n in ("first", "second", "third") for what in ("waits", "is sealed")]
KINDS = ["pending", "seen", "keys", "head.json", "cursor.json", "status", "batches"]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """No power is cut here, and waiting for the disk is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return store_with_model(tmp_path_factory.mktemp("model"))


def copied(model: FolderStore, folder: Path) -> FolderStore:
    store = FolderStore(folder / "store")
    for key in model.keys("registry"):
        store.write(key, model.read(key))
    return store


@pytest.fixture
def store(model: FolderStore, tmp_path: Path) -> FolderStore:
    return copied(model, tmp_path)


def test_a_life_without_damage(store: FolderStore) -> None:
    assert len(life(store)) == 3
    assert sealed(store) == Counter(event(n).key for n in range(6))


@pytest.mark.parametrize("kind", [*KINDS, "data"])
def test_any_damaged_object_at_any_moment_loses_and_doubles_nothing(
    model: FolderStore, tmp_path: Path, kind: str
) -> None:
    expected, struck = life(copied(model, tmp_path / "whole")), 0
    first = len(kind) % len(MOMENTS)  # every kind meets the damages at other moments
    order = (MOMENTS * 3)[first:]
    for number, (moment, damage) in enumerate(zip(order, DAMAGE, strict=False)):
        store = copied(model, tmp_path / str(number))

        def strike(
            at: str, store: FolderStore = store, moment: str = moment, damage: str = damage
        ) -> None:
            nonlocal struck
            place = "data/versions" if kind == "data" else f"trigger/{kind}"
            keys = [key for key in store.keys(place)] if at == moment else []
            for key in keys[-1:]:  # one object: the newest of its kind
                struck += 1
                store.write(key, DAMAGE[damage](store.read(key)))

        runs = life(store, strike)  # an event that is made again waits anew: for another batch
        assert kind == "pending" or (moment, damage, runs) == (moment, damage, expected)
        assert sealed(store) == Counter(event(n).key for n in range(6)), (moment, damage)
    assert struck


@settings(max_examples=20)
@given(
    moment=st.sampled_from(MOMENTS),
    which=st.randoms(use_true_random=False),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_anywhere_loses_and_doubles_nothing(
    model: FolderStore,
    tmp_path_factory: pytest.TempPathFactory,
    moment: str,
    which: random.Random,
    bit: int,
) -> None:
    store = copied(model, tmp_path_factory.mktemp("flips"))

    def strike(at: str) -> None:
        keys = [key for key in store.keys("trigger") if not key.startswith(AUDIT)]
        if at == moment:
            key = which.choice(keys)
            data = bytearray(store.read(key))
            data[which.randrange(len(data))] ^= 1 << bit
            store.write(key, bytes(data))

    life(store, strike)
    assert sealed(store) == Counter(event(n).key for n in range(6))


@pytest.mark.parametrize(
    "text", [b"0", b"-1", b"2", b"3", b"7", b"1e3", b"", b"\xff", b"[", b"nan"]
)
def test_a_cursor_is_believed_only_as_far_as_the_batches_have_ended(
    store: FolderStore, text: bytes
) -> None:
    def strike(moment: str) -> None:
        if moment == "second is sealed":
            store.write("trigger/cursor.json", text)

    assert len(life(store, strike)) == 3


def started(store: FolderStore) -> tuple[Runs, Clock, Worker]:
    """A batch whose run goes on."""
    runs, clock = Runs(store), Clock()
    runs.ending = False
    one = Worker(store, CONFIG, runs, Metrics(), clock)
    one.inbox.receive(event(1))
    clock.now += 20
    one.tick()
    return runs, clock, one


STATUS = "trigger/status/000001.json"


def test_the_owner_writes_its_damaged_status_again_at_once(store: FolderStore) -> None:
    runs, _, one = started(store)
    before = store.read(STATUS)
    store.write(STATUS, b"{}")
    one.tick()
    assert store.read(STATUS) == before and len(runs.started) == 1


def test_another_replica_waits_for_a_lease_and_goes_on_with_the_same_run(
    store: FolderStore,
) -> None:
    runs, clock, _ = started(store)
    before = Status.model_validate_json(store.read(STATUS))
    store.write(STATUS, b"{}")
    two = Worker(store, CONFIG, runs, Metrics(), clock)
    for _ in range(3):
        with pytest.raises(DamagedError, match="after 30 s of silence"):
            two.tick()
        clock.now += 9.9
    clock.now += 1
    two.tick()
    after = Status.model_validate_json(store.read(STATUS))
    assert (after.run, after.parent, after.attempts) == (before.run, before.parent, 1)
    assert (after.owner, after.state, len(runs.started)) == (two.replica, "started", 1)


def test_without_a_trail_the_run_is_found_among_the_runs(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, clock, _ = started(store)
    (run,) = runs.started
    store.delete("trigger/audit")
    submission = {
        "run": run, "pipeline": "retrain", "address": "tiny", "recipe": "0",
        "overrides": [], "submitted": now().isoformat(),
    }  # fmt: skip
    store.write(f"runs/{run}/run.json", json.dumps(submission).encode())
    store.write(STATUS, b"")
    two = Worker(store, CONFIG, runs, Metrics(), clock)
    with pytest.raises(DamagedError):
        two.tick()
    clock.now += 31
    two.tick()
    after = Status.model_validate_json(store.read(STATUS))
    assert (after.run, after.parent) == (run, "tiny:1") and runs.started == [run]


def test_records_of_before_are_read_without_a_check(store: FolderStore) -> None:
    def strike(moment: str) -> None:
        for key in store.keys("trigger"):
            tree = json.loads(store.read(key))
            if isinstance(tree, dict) and "check" in tree:
                tree.pop("check")
                if "/seen/" in key:
                    tree.pop("data")
                store.write(key, json.dumps(tree).encode())

    assert len(life(store, strike)) == 3


def test_an_event_that_nothing_tells_of_is_told_and_stops_no_other(store: FolderStore) -> None:
    _, clock, one = started(store)
    one.inbox.receive(event(7))
    one.inbox.receive(event(8))
    lost = event(7)
    store.write(f"trigger/pending/{lost.id}.json", b"")
    store.delete(f"trigger/seen/{lost.id}.json")
    store.delete(f"trigger/keys/{lost.key_id}.json")
    clock.now += 20
    one.tick()
    assert f"{lost.id}.json is damaged" in one.trouble
    head, _ = one.inbox.head()
    assert head is not None and [e.id for e in head.events] == [event(8).id]
    one.inbox.receive(lost)  # its sender had no answer, and sends it again
    one.tick()
    assert one.trouble == ""


def test_a_head_that_is_damaged_half_way_through_its_marks(store: FolderStore) -> None:
    """One replica swapped the head and died while it marked the batch's events."""
    box = Inbox(store, CONFIG, Clock())
    for number in range(3):
        box.receive(event(number))
    settled = box.seal(at_once=True)
    assert settled is not None
    for kind in ("pending", "batches"):  # as before the last two of the three events were marked
        store.delete(f"trigger/{kind}")
    for number in range(3):
        one = event(number)
        box._write_pending(one)
        if number:
            marked = {"event": one.model_dump(), "batch": None}
            store.write(f"trigger/seen/{one.id}.json", json.dumps(marked).encode())
    store.write("trigger/head.json", b"{")
    box.receive(event(9))  # after the seal
    again, _ = box.settle()
    assert again is not None and again.number == 1 and again.data == settled.data
    assert {e.id for e in again.events} == {e.id for e in settled.events}
    following = box.seal(at_once=True)
    assert following is not None and [e.id for e in following.events] == [event(9).id]


def test_events_of_a_head_that_lost_against_its_like_wait_again(store: FolderStore) -> None:
    box = Inbox(store, CONFIG, Clock())
    box.receive(event(1))
    first = box.seal(at_once=True)
    assert first is not None
    wider = first.model_copy(update={"events": [*first.events, event(2)]})
    box._give_back(wider)
    following = box.seal(at_once=True)
    assert following is not None and [e.id for e in following.events] == [event(2).id]


@pytest.mark.parametrize("sequencer", ["zzzz", "0x1F", "~", "ÿ", "-1", "", "F" * 500])
def test_a_sequencer_that_is_no_hex_supersedes_nothing(tmp_path: Path, sequencer: str) -> None:
    box = Inbox(FolderStore(tmp_path), CONFIG)
    box.receive(event(1, "a", sequencer))
    assert box.receive(event(1, "b", "0A2")) == "new"
    assert box.receive(event(1, "c", "0A1")) == "superseded"
    assert not event(1, sequencer="0A1").older_than(sequencer)


def test_a_damaged_watermark_follows_from_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = FolderStore(tmp_path / "bucket"), FolderStore(tmp_path / "store")
    box = Inbox(store, CONFIG)
    for name in ("a", "b"):
        source.write(f"incoming/{name}.parquet", name.encode())
    assert poll(source, box) == 2 and box.seal(at_once=True) is not None
    store.delete("trigger/seen")  # as after `retention_s`
    store.delete("trigger/keys")
    whole = store.read(WATERMARK)
    for damage in (*DAMAGE.values(), flipped(b'"until": -1', b'"until": 71')):
        store.write(WATERMARK, damage(whole))
        assert poll(source, box) == 0
    source.write("incoming/c.parquet", b"c")
    assert poll(source, box) == 1


def flipped(a: bytes, b: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert a in data
        return data.replace(a, b)

    return change


@pytest.mark.parametrize("text", [b"", b"x", b"nan", b"inf", b"9e99", b"\xff"])
def test_a_damaged_time_of_tidying_is_as_none(tmp_path: Path, text: bytes) -> None:
    store = FolderStore(tmp_path)
    store.write(TIDIED, text)
    assert [is_due(store, 1e6), is_due(store, 1e6 + 1)] == [True, False]


BAD_ENTRIES = [b"", b"{", b"[]", b"5", b"\xff", b"[" * 200_000, b'{"at": 5}']


def test_a_damaged_decision_is_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore(tmp_path)
    record(store, "one", "sealed", batch=1)
    for number, data in enumerate(BAD_ENTRIES):
        store.write(f"{AUDIT}/20260501/{number}.json", data)
    good = json.dumps({"id": "x", "at": "2026-05-02", "what": "done"}).encode()
    store.write(f"{AUDIT}/20260502.jsonl", b"\n".join([b"{", good, b"[" * 200_000]))
    with caplog.at_level(logging.WARNING):
        assert [entry["what"] for entry in read_audit(store)] == ["done", "sealed"]
    assert f"{len(BAD_ENTRIES) + 2} decisions can't be read" in caplog.text


def test_packing_loses_no_damaged_decision_and_ends(tmp_path: Path) -> None:
    store, day = FolderStore(tmp_path), f"{AUDIT}/20260501"
    whole = json.dumps({"at": "2026-05-01", "what": "done"}).encode()
    store.write(f"{day}/good.json", whole)
    store.write(f"{day}/bad.json", b"{")
    store.write(f"{day}.jsonl", b"half a li\n")
    store.write(f"{AUDIT}/no-day.json", whole)
    assert [rotate(store, 1e12), rotate(store, 1e12)] == [1, 0]
    lines = store.read(f"{day}.jsonl").splitlines()
    assert lines[0] == b"half a li" and json.loads(lines[1])["id"] == "good"
    left = {f"{AUDIT}/20260501.jsonl", f"{day}/bad.json", f"{AUDIT}/no-day.json"}
    assert set(store.keys(AUDIT)) == left


@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - {"null", "nested without end"}))
def test_a_damaged_verdict_is_one_sentence_and_worth_another_start(
    store: FolderStore, damage: str
) -> None:
    key = "runs/r/verdict.json"
    store.write("runs/r/summary.json", b'{"state": "complete"}')
    store.write(key, DAMAGE[damage](b'{"outcome": "refused"}'))
    with pytest.raises(errors.DamagedError, match="damaged"):
        read_verdict(store, "r")
    assert CommandSubmitter(store, CONFIG).look("r")[0] == "lost"


def test_a_data_version_that_is_not_its_contents_is_refused(store: FolderStore) -> None:
    box = Inbox(store, CONFIG)
    box.receive(event(1))
    batch = box.seal(at_once=True)
    assert batch is not None and batch.data is not None
    key = f"data/versions/{batch.data}.json"
    whole = store.read(key)
    for change in ((b"episode-0001", b"episode-0002"), (b"tag1", b"tag2"), (b"/", b"#")):
        store.write(key, whole.replace(*change))
        with pytest.raises(UserInputError, match="is damaged"):
            find_version(store, batch.data)
        box.restore_data(batch)
        assert find_version(store, batch.data).objects[0].key == event(1).key
