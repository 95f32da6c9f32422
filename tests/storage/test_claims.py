"""Claims: one owner at a time, taken over when it shows no life, whatever the clocks say."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pelican.errors import InfrastructureError
from pelican.storage.claims import CLAIMS, Claims, release
from pelican.storage.store import FolderStore


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def claims(store: FolderStore, owner: str, clock: Clock, attempt: str = "1") -> Claims:
    return Claims(store, "work/claims", owner, attempt=attempt, lease_s=10, clock=clock)


def test_an_item_has_one_owner(store: FolderStore) -> None:
    clock = Clock()
    a, b = claims(store, "a", clock), claims(store, "b", clock)
    assert a.take("shard-0") and not b.take("shard-0")
    assert b.take("shard-1") and not a.take("shard-1")


def test_of_many_replicas_that_ask_together_one_gets_the_item(store: FolderStore) -> None:
    clock, won = Clock(), []
    start = threading.Barrier(8)

    def ask(owner: str) -> None:
        mine = claims(store, owner, clock)
        start.wait()
        if mine.take("shard-0"):
            won.append(owner)

    threads = [threading.Thread(target=ask, args=(f"r{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_lost_owner_is_known_by_its_silence(store: FolderStore) -> None:
    clock = Clock()
    a, b = claims(store, "a", clock), claims(store, "b", clock)
    assert a.take("shard-0")
    assert not b.take("shard-0")  # first seen now
    clock.now = 9
    assert a.renew("shard-0")
    clock.now = 18
    assert not b.take("shard-0")  # it was seen alive in between
    clock.now = 27
    assert not b.take("shard-0")
    clock.now = 28
    assert b.take("shard-0")
    assert not a.renew("shard-0")  # only slow, not dead: it learns of it
    assert b.renew("shard-0")


def test_of_two_that_take_over_together_one_wins(store: FolderStore) -> None:
    clock = Clock()
    lost, b, c = (claims(store, name, clock) for name in "abc")
    assert lost.take("shard-0")
    assert not b.take("shard-0") and not c.take("shard-0")
    clock.now = 10
    assert [b.take("shard-0"), c.take("shard-0")] == [True, False]


def test_what_an_earlier_attempt_held_is_free_at_once(store: FolderStore) -> None:
    clock = Clock()
    assert claims(store, "a", clock, attempt="1").take("shard-0")
    assert claims(store, "b", clock, attempt="2").take("shard-0")


@pytest.mark.parametrize("damage", [b"", b"{}", b"null", b'{"owner": "a", ', b"[" * 200_000])
def test_a_damaged_claim_is_free_and_its_owner_learns_of_it(
    store: FolderStore, damage: bytes
) -> None:
    clock = Clock()
    a, b = claims(store, "a", clock), claims(store, "b", clock)
    assert a.take("shard-0")
    store.write("work/claims/shard-0.json", damage)
    assert not a.renew("shard-0")
    assert b.take("shard-0") and b.renew("shard-0")


def test_a_held_item_is_kept_alive_and_its_loss_is_noticed(store: FolderStore) -> None:
    mine = Claims(store, "work/claims", "a", attempt="1", lease_s=0.04)
    with mine.hold("shard-0") as claim:
        assert claim is not None
        before = store.read("work/claims/shard-0.json")
        changed = threading.Event()
        while store.read("work/claims/shard-0.json") == before:
            changed.wait(0.01)
        assert not claim.lost
        store.write("work/claims/shard-0.json", b'{"owner": "b", "attempt": "1", "beat": 1}')
        while not claim.lost:
            changed.wait(0.01)
    with mine.hold("shard-0") as again:
        assert again is None


def test_an_owner_that_cannot_ask_whether_it_is_still_the_owner_gives_up(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Claims(store, "work/claims", "a", attempt="1", lease_s=0.04)
    with mine.hold("shard-0") as claim:
        assert claim is not None and not claim.lost
        monkeypatch.setattr(store, "read_tagged", _away)
        waited = threading.Event()
        while not claim.lost:
            waited.wait(0.01)


def _away(key: str) -> tuple[bytes, str]:
    raise InfrastructureError(f"{key} is out of reach")


def test_what_a_cancelled_run_held_is_released(store: FolderStore) -> None:
    for run in ("gone", "other"):
        stage = f"runs/{run}/loop-1/rollout-rl"
        assert Claims(store, f"{stage}/{CLAIMS}", "a").take("shard-0")
        store.write(f"{stage}/work/shard-0.json", b"{}")
    release(store, "runs/gone")
    assert list(store.keys("runs/gone")) == ["runs/gone/loop-1/rollout-rl/work/shard-0.json"]
    assert len(list(store.keys("runs/other"))) == 2
