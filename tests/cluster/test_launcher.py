"""Stages as PyTorchJobs on a real cluster, as the launcher's service account; and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pelican.cli.cluster import cancel_run
from pelican.config.presets import find_recipe
from pelican.errors import PelicanError, UserInputError
from pelican.launch.job import CancelledError, Job, JobResult
from pelican.launch.kube import Absent
from pelican.launch.podspec import DIGEST, build_job, job_name
from pelican.launch.pytorchjob import PyTorchJobLauncher, StuckError, end_jobs, reap_jobs
from pelican.launch.step import make_job
from pelican.records import Phase
from pelican.runs.layout import CANCELLED
from pelican.stages.stage import StageName, StageSpec
from pelican.storage.claims import CLAIMS
from pelican.storage.manifests import read_manifest
from pelican.storage.publish import publish
from tests.cluster.conftest import LONG_S, NAMESPACE, SHORT_S, Cluster, kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SMALL = (
    "data.evaluation=samples/dev data.samples_per_loop=16 rollout.samples=2"
    " rollout.shard_size=8 rollout.workers=1 rl.processes=2 rl.max_steps=12 rl.min_steps=1"
    " rl.save_steps=2 rl.prompts_per_step=4 rl.group_size=4"
    " resources.every.cpu=200m resources.every.memory=2Gi resources.train_rl.replicas=2"
)


def spec(
    cluster: Cluster, run: str, stage: StageName, *more: str, inputs: dict[str, str] | None = None
) -> Job:
    fields = dict(word.split("=", 1) for text in [SMALL, *more] for word in text.split())
    recipe = publish(
        cluster.store, find_recipe("tiny", [f"{name}={value}" for name, value in fields.items()])
    )
    named = {"pool": recipe.data.train, "policy": recipe.models.policy, **(inputs or {})}
    return make_job(
        StageSpec(
            stage=stage,
            store=cluster.store.uri,
            run=run,
            loop=1,
            phase=Phase.RL,
            output=f"runs/{run}/loop-1/{stage}-rl",
            inputs=named,
            recipe=recipe,
        )
    )


def launch(cluster: Cluster, job: Job) -> JobResult:
    return PyTorchJobLauncher(cluster.kube, cluster.target).run(job)


def nothing_left(cluster: Cluster, run: str) -> None:
    """No job, no pod and no volume claim."""

    def gone() -> bool:
        return not cluster.pods(run) and not cluster.jobs(run)

    cluster.wait_for("the end of all jobs and pods", gone)
    volumes = kubectl("-n", NAMESPACE, "get", "pvc", "-l", f"pelican.dev/run={run}", "-o", "name")
    assert not volumes.strip()


def nothing_runs(cluster: Cluster, run: str) -> None:
    """A failed job stays until its TTL, its pods have ended."""

    def ended() -> bool:
        phases = {pod["status"]["phase"] for pod in cluster.pods(run)}
        return phases <= {"Succeeded", "Failed"}

    cluster.wait_for("the end of all pods", ended)


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        (
            "resources.rollout.gpus=64 resources.rollout.pending_s=6",
            StuckError,
            "64 nvidia.com/gpu",
        ),
        (
            'resources.rollout.node_selector={"pool":"nowhere"} resources.rollout.pending_s=6',
            StuckError,
            "no node of the pool pool=nowhere",
        ),
        ("resources.rollout.image=pelican.test/none:1", UserInputError, "cannot be pulled"),
        ("resources.rollout.service_account=nobody", UserInputError, "service account is missing"),
    ],
)
def test_a_job_that_cannot_start_is_explained_and_deleted(
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    more: str,
    kind: type[PelicanError],
    words: str,
) -> None:
    run = f"stuck-{abs(hash(request.node.name)) % 10**6}"
    with pytest.raises(kind, match=words) as caught:
        launch(cluster, spec(cluster, run, "rollout", more.replace('"', '\\"')))
    assert "\n" not in str(caught.value)
    assert '"event": "waiting"' in capsys.readouterr().out
    nothing_left(cluster, run)


def train(cluster: Cluster, run: str, buffer: str, *more: str) -> Job:
    return spec(cluster, run, "train-rl", *more, inputs={"buffer": buffer})


def in_process(cluster: Cluster, job: Job) -> subprocess.Popen[str]:
    """A launcher as a process of its own, which may be killed."""
    program = (
        "import sys; from pelican.launch.pytorchjob import PyTorchJobLauncher as L;"
        "from pelican.launch.step import make_job; from pelican.stages.stage import StageSpec;"
        "L().run(make_job(StageSpec.model_validate_json(sys.stdin.read())), print)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdin is not None
    process.stdin.write(job.spec.model_dump_json())
    process.stdin.close()
    return process


def running(
    cluster: Cluster, run: str, pods: int = 1, meanwhile: Future[Any] | None = None
) -> list[dict[str, Any]]:
    """The pods once that many run; those that are being deleted do not count."""

    def all_run() -> list[dict[str, Any]]:
        found = [p for p in cluster.pods(run) if "deletionTimestamp" not in p["metadata"]]
        return found if [p["status"]["phase"] for p in found] == ["Running"] * pods else []

    return cluster.wait_for(f"{pods} running pods", all_run, LONG_S, meanwhile=meanwhile)


def kept_checkpoint(cluster: Cluster, run: str) -> Callable[[], bool]:
    prefix = f"runs/{run}/loop-1/train-rl-rl/work/trainer"
    return lambda: any(key.endswith("trainer_state.json") for key in cluster.store.keys(prefix))


def test_a_stage_of_two_pods_runs_as_the_manifests_account(cluster: Cluster, buffer: str) -> None:
    """Also: what runs meets Pod Security "restricted", and nothing that is written holds a secret."""
    job = train(cluster, "plain", buffer)
    seen: list[dict[str, Any]] = []
    watcher = threading.Thread(target=lambda: seen.extend(running(cluster, "plain", 2)))
    watcher.start()
    started = time.monotonic()
    result = launch(cluster, job)
    beyond = time.monotonic() - started - result.manifest.seconds
    watcher.join()
    assert result.attempts == 1
    assert result.manifest.counts["steps"] > 0
    assert {"checkpoint/config.json", "curve.parquet"} <= {o.path for o in result.manifest.outputs}
    log = cluster.store.read(job.logs).decode()
    assert f"job {job_name(job)}, attempt 1" in log
    print(f"train-rl: {result.manifest.seconds:.0f} s, and {beyond:.0f} s around it")
    for pod in seen:
        assert pod["spec"]["serviceAccountName"] == "pelican-stage"
        (own,) = [c for c in pod["spec"]["containers"] if c["name"] == "pytorch"]
        assert own["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert own["securityContext"]["readOnlyRootFilesystem"]
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    written = [cluster.store.read(key) for key in cluster.store.keys("runs/plain/logs")]
    assert not any(secret.encode() in text for text in written)
    assert secret not in json.dumps(cluster.jobs("plain")) + json.dumps(seen)


@pytest.mark.parametrize("rank", ["worker-0", "master-0"])
def test_a_deleted_pod_costs_no_more_than_since_the_last_checkpoint(
    cluster: Cluster, buffer: str, rank: str
) -> None:
    run = f"lost-{rank}"
    job = train(cluster, run, buffer, "rl.max_steps=10")
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launch, cluster, job)
        kept = kept_checkpoint(cluster, run)
        cluster.wait_for("a checkpoint", kept, LONG_S, meanwhile=result)
        names = [pod["metadata"]["name"] for pod in running(cluster, run, 2, result)]
        (name,) = [name for name in names if name.endswith(rank)]
        kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait=false")
        done = result.result(timeout=LONG_S)
    assert done.attempts == 2
    assert done.manifest.counts["steps"] == 10
    import polars as pl

    curve = pl.read_parquet(cluster.store.local(f"{job.spec.output}/curve.parquet"))
    assert curve["step"].unique().sort().to_list() == list(range(1, 11))
    assert read_manifest(cluster.store, job.spec.output) == done.manifest


def test_a_killed_launchers_job_is_adopted(cluster: Cluster, buffer: str) -> None:
    job = train(cluster, "adopted", buffer)
    first = in_process(cluster, job)
    running(cluster, "adopted", 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (before,) = cluster.jobs("adopted")
    result = launch(cluster, job)
    (after,) = cluster.jobs("adopted")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert result.attempts == 1
    assert "adopted" in cluster.store.read(job.logs).decode()


def test_two_launchers_of_one_step_share_one_job(cluster: Cluster) -> None:
    job = spec(cluster, "shared", "rollout")
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(launch, cluster, job) for _ in range(2)]
        manifests = [result.result(timeout=LONG_S).manifest for result in results]
    assert manifests[0] == manifests[1]
    assert len(cluster.jobs("shared")) == 1
    assert manifests[0].counts["rollouts"] == 32


def test_another_specification_of_a_running_name_is_refused(cluster: Cluster, buffer: str) -> None:
    first = in_process(cluster, train(cluster, "conflict", buffer))
    try:
        running(cluster, "conflict", 2)
        with pytest.raises(UserInputError, match="another specification") as caught:
            launch(cluster, train(cluster, "conflict", buffer, "rl.learning_rate=0.1"))
        (job,) = cluster.jobs("conflict")
        assert job["metadata"]["annotations"][DIGEST] in str(caught.value)
    finally:
        end_jobs(cluster.kube, "conflict")
        assert first.wait(timeout=SHORT_S) != 0
    nothing_left(cluster, "conflict")


def test_cancelling_leaves_nothing_and_is_no_failure(cluster: Cluster, buffer: str) -> None:
    launcher = PyTorchJobLauncher(cluster.kube, cluster.target)
    job = train(cluster, "cancelled", buffer)
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launcher.run, job)
        running(cluster, "cancelled", 2, result)
        launcher.cancel()
        with pytest.raises(CancelledError):
            result.result(timeout=SHORT_S)
    nothing_left(cluster, "cancelled")
    assert read_manifest(cluster.store, job.spec.output) is None


def test_a_run_is_cancelled_from_elsewhere(cluster: Cluster, buffer: str) -> None:
    """`pelican cancel`: the launcher stops, no job and no pod stays, and the run can go on."""
    job = train(cluster, "stopped", buffer)
    cluster.store.write("runs/stopped/recipe.json", job.spec.recipe.model_dump_json().encode())
    first = in_process(cluster, job)
    running(cluster, "stopped", 2)
    cancel_run("stopped", None)
    assert first.wait(timeout=SHORT_S) != 0
    nothing_left(cluster, "stopped")
    with pytest.raises(CancelledError, match="was cancelled"):
        launch(cluster, job)


def test_a_cancelled_rollout_leaves_no_claim(cluster: Cluster) -> None:
    """And goes on at once when it is wanted again: nobody waits for a lease of the dead."""
    job = spec(cluster, "unclaimed", "rollout", "rollout.shard_size=2", "data.samples_per_loop=64")
    cluster.store.write("runs/unclaimed/recipe.json", job.spec.recipe.model_dump_json().encode())

    def claims() -> list[str]:
        return [key for key in cluster.store.keys("runs/unclaimed") if f"/{CLAIMS}/" in key]

    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launch, cluster, job)
        cluster.wait_for("a claim", claims, LONG_S, meanwhile=result)
        cancel_run("unclaimed", None)
        with pytest.raises(CancelledError):
            result.result(timeout=SHORT_S)
    nothing_left(cluster, "unclaimed")
    assert claims() == []
    cluster.store.delete(f"runs/unclaimed/{CANCELLED}")
    assert launch(cluster, job).manifest.counts["rollouts"] == 128


def test_orphans_are_reaped(cluster: Cluster, buffer: str) -> None:
    """A job that is followed stays, one that is not goes."""
    # It must not end by itself, nor because practice stagnates.
    job = train(cluster, "orphan", buffer, "rl.max_steps=500 rl.min_steps=500")
    first = in_process(cluster, job)
    running(cluster, "orphan", 2)
    cluster.store.write("runs/orphan/recipe.json", b"{}")
    assert "orphan" not in str(list(reap_jobs(cluster.kube, cluster.store, 600.0)))
    first.kill()
    first.wait()

    def reaped() -> bool:  # other jobs may run, which are followed every minute
        found = dict(reap_jobs(cluster.kube, cluster.store, 75.0))
        return any("orphan" in name and "followed" in why for name, why in found.items())

    cluster.wait_for("the end of the orphan", reaped)
    nothing_left(cluster, "orphan")


def test_the_users_mistake_is_not_tried_again(cluster: Cluster) -> None:
    job = spec(cluster, "mistake", "rollout", inputs={"policy": f"{cluster.store.uri}/made/none"})
    cluster.store.write("made/none/config.json", b"{}")
    with pytest.raises(UserInputError) as caught:
        launch(cluster, job)
    assert "\n" not in str(caught.value)
    assert "attempt 2" not in cluster.store.read(job.logs).decode()
    nothing_runs(cluster, "mistake")


def test_memory_that_ran_out_is_told(cluster: Cluster) -> None:
    from pelican.errors import ResourceError

    job = spec(cluster, "memory", "rollout", "resources.every.memory=200Mi")
    with pytest.raises(ResourceError, match="memory"):
        launch(cluster, job)
    nothing_runs(cluster, "memory")


def test_a_taint_holds_the_pods_until_it_is_gone(cluster: Cluster) -> None:
    job = spec(cluster, "taint", "rollout")
    kubectl("taint", "nodes", "--all", "pelican.dev/test=full:NoSchedule")
    try:
        with ThreadPoolExecutor(1) as threads:
            result = threads.submit(launch, cluster, job)
            cluster.wait_for("a pod", lambda: cluster.pods("taint"), meanwhile=result)

            def refused() -> bool:
                (pod,) = cluster.pods("taint")
                found = pod["status"].get("conditions", [])
                return any("untolerated taint" in c.get("message", "") for c in found)

            cluster.wait_for("the scheduler's refusal", refused, meanwhile=result)
            kubectl("taint", "nodes", "--all", "pelican.dev/test-")
            assert result.result(timeout=LONG_S).attempts == 1
    finally:
        kubectl("taint", "nodes", "--all", "pelican.dev/test-", check=False)


def test_a_restarted_operator_loses_nothing(cluster: Cluster) -> None:
    job = spec(cluster, "operator", "rollout")
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launch, cluster, job)
        cluster.wait_for("a job", lambda: cluster.jobs("operator"), meanwhile=result)
        selector = "control-plane=kubeflow-training-operator"
        kubectl("-n", "kubeflow", "delete", "pod", "-l", selector, "--wait=false")
        assert result.result(timeout=LONG_S).attempts == 1


def test_the_account_may_do_what_it_needs_and_no_more(cluster: Cluster) -> None:
    jobs = ("pytorchjobs", "kubeflow.org")
    for verb in ("create", "get", "list", "patch", "delete"):
        assert cluster.kube.may(verb, *jobs)
    assert cluster.kube.may("get", "pods/log")
    for verb, resource in (("create", "pods"), ("get", "secrets"), ("delete", "pods")):
        assert not cluster.kube.may(verb, resource)
    with pytest.raises(Absent):
        cluster.kube.job("no-such-job")


def test_our_containers_meet_pod_security_restricted(cluster: Cluster) -> None:
    """Workers get the operator's init container beside ours, which does not: so "baseline" there."""
    name = "pelican-restricted-test"
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubectl("create", "namespace", name)
    try:
        kubectl("label", "namespace", name, label)
        kubectl("-n", name, "create", "serviceaccount", "pelican-stage")
        tree = build_job(spec(cluster, "restricted", "reward"), cluster.target, "s3://b/k", {})
        template = tree["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "restricted", **template["metadata"]}
        create = ("-n", name, "create", "--dry-run=server", "-f", "-")
        assert "created" in kubectl(*create, text=json.dumps(pod))
        del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
        assert "created" not in kubectl(*create, text=json.dumps(pod), check=False)
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
