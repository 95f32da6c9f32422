"""`pelican retrain` follows its run in Kubeflow to the end; the API's server is made, S3 is real."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pelican.cli.submit import submit_retraining, submit_run
from pelican.errors import PelicanError, UserInputError
from pelican.launch.job import CancelledError
from pelican.registry.models import Lineage, promote, register
from pelican.retrain.plan import Plan, plan_of
from pelican.retrain.records import Verdict, write_verdict
from pelican.retrain.trigger.config import TriggerConfig
from pelican.retrain.trigger.worker import CommandSubmitter
from pelican.runs.failure import record_failure
from pelican.runs.layout import CANCELLED, run_prefix
from pelican.storage.manifests import now
from pelican.storage.s3 import S3Store
from tests.buckets import Bucket
from tests.conftest import World
from tests.data.factory import sample, write_pool
from tests.launch.test_kfp import (
    Backend,
    backend,  # noqa: F401 - fixtures
)
from tests.retrain.trigger.services import wait_for


@pytest.fixture
def store(bucket: Bucket, world: World, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A bucket with a model; new data lie beside the world's pools."""
    monkeypatch.setenv("PELICAN_STORE", f"{bucket.uri}/store")
    write_pool(world.root / "new", [sample(n) for n in range(1000, 1010)])
    made = bucket.store()
    version = register(made, "tiny", world.root / "policy", Lineage(origin="imported", source="x"))
    promote(made, "tiny", version.version, "test", None)
    return made


@pytest.fixture
def following(
    store: S3Store,
    world: World,
    backend: Backend,  # noqa: F811
) -> Iterator[tuple[Plan, Callable[[], PelicanError | None]]]:
    """A call that follows its run; the second value ends it and gives what it raised."""
    new = str(world.root / "new")
    raised: list[PelicanError] = []

    def call() -> None:
        try:
            submit_retraining(new, "tiny", "tiny", [*world.overrides, "loops=1"], None, "kubeflow")
        except PelicanError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()

    def end() -> PelicanError | None:
        thread.join()
        return raised[0] if raised else None

    wait_for(lambda: backend.runs or not thread.is_alive(), "nothing was submitted")
    assert backend.runs, raised
    yield plan_of(store, new, "tiny", "tiny", [*world.overrides, "loops=1"]), end
    backend.states.append("FAILED")  # of a test that was cut off
    thread.join()


def elsewhere(bucket: Bucket) -> CommandSubmitter:
    """A replica on another machine, which started nothing."""
    return CommandSubmitter(bucket.store(), TriggerConfig())


def test_a_run_is_followed_to_its_verdict(
    bucket: Bucket,
    backend: Backend,  # noqa: F811
    store: S3Store,
    following: tuple[Plan, Callable[[], PelicanError | None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, end = following
    assert elsewhere(bucket).look(plan.run) == ("running", "in Kubeflow")
    verdict = Verdict(
        outcome="promoted", run=plan.run, data=plan.data, parent=plan.parent,
        version="tiny:2", reasons=["gain: enough"], at=now(),
    )  # fmt: skip
    write_verdict(store, verdict)
    store.write(f"{run_prefix(plan.run)}/summary.json", b'{"state": "complete"}')
    backend.states.append("SUCCEEDED")
    assert end() is None
    assert "tiny:2 is current" in capsys.readouterr().out
    assert elsewhere(bucket).look(plan.run) == ("complete", "")


def test_the_same_call_elsewhere_follows_the_same_run(
    bucket: Bucket,
    backend: Backend,  # noqa: F811
    following: tuple[Plan, Callable[[], PelicanError | None]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    plan, end = following
    monkeypatch.setenv("PELICAN_CACHE", str(tmp_path / "another-machine"))
    submit_run("retrain", "tiny", plan.overrides, plan.run, None, "kubeflow")
    backend.states.append("FAILED")
    assert "ended as FAILED" in str(end())
    assert [run["display_name"] for run in backend.runs.values()] == [plan.run]
    assert elsewhere(bucket).look(plan.run)[0] == "lost"


def test_what_the_failed_step_said_is_what_the_call_says(
    backend: Backend,  # noqa: F811
    store: S3Store,
    following: tuple[Plan, Callable[[], PelicanError | None]],
) -> None:
    plan, end = following
    with pytest.raises(SystemExit), record_failure(store, plan.run, "intake"):
        raise UserInputError("a scene is on both sides")
    backend.states.append("FAILED")
    error = end()
    assert isinstance(error, UserInputError)
    assert str(error) == "intake: a scene is on both sides"


def test_a_cancelled_run_is_not_started_again(
    bucket: Bucket,
    backend: Backend,  # noqa: F811
    store: S3Store,
    following: tuple[Plan, Callable[[], PelicanError | None]],
) -> None:
    plan, end = following
    backend.states.append("CANCELED")  # in Kubeflow's UI: nobody marks it in the store
    assert isinstance(end(), CancelledError)
    assert store.exists(f"{run_prefix(plan.run)}/{CANCELLED}")
    found, why = elsewhere(bucket).look(plan.run)
    assert found == "refused"
    assert "cancelled" in why


def test_a_backend_that_is_silent_does_not_make_a_run_lost(
    bucket: Bucket,
    following: tuple[Plan, Callable[[], PelicanError | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, _ = following
    monkeypatch.setenv("KFP_HOST", "http://127.0.0.1:9")
    assert elsewhere(bucket).look(plan.run)[0] == "running"
