"""No credential is taken into a recipe or an address, sent to a stranger, or written down."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pelican.base.address import holds_credentials
from pelican.base.endpoint import ChatClient, served_models
from pelican.config import env
from pelican.config.credentials import PREFIXES
from pelican.config.presets import PIPELINES, find_recipe, for_pipeline
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES
from pelican.errors import UserInputError
from pelican.launch.kfp import KfpSettings
from pelican.launch.podspec import Target, build_job
from pelican.launch.step import make_job
from pelican.records import Phase
from pelican.retrain.trigger.config import variables
from pelican.runs.preflight import parse_recipe
from pelican.stages.stage import StageSpec
from pelican.storage import local_path, open_store
from pelican.storage.s3 import S3Store
from pipelines import compile_pipeline
from pipelines.run import step_pods
from tests.conftest import ROOT, World
from tests.endpoints import chatting

ROWS = [row for rows in env.VARIABLES.values() for row in rows] + list(variables())
KEYS = ["PELICAN_TEACHER_API_KEY", "PELICAN_JUDGE_KEY", "PELICAN_POLICY_API_KEY"]
PLANTED = "planted"
ADDRESSES = [
    "https://user:planted@host/v1",
    "http://planted@host:8000/v1",
    "https://user:pla/planted@host/v1",
    "s3://KEY:planted@bucket/prefix",
    "s3://KEY:pla/nt+planted@bucket/prefix",
    "s3://planted@bucket",
    "file://user:planted@host/folder",
]
WITHOUT = [
    "http://host:8000/v1",
    "http://[::1]:8000/v1",
    "http://[::1]/v1",
    "s3://bucket/a@b:c/pool",
    "https://host:8000/a@b",
    "registry/pelican@sha256:0123",
    "data/pool@0123",
    "",
]


@pytest.mark.parametrize(("addresses", "said"), [(ADDRESSES, True), (WITHOUT, False)])
def test_credentials_in_an_address_are_seen(addresses: list[str], said: bool) -> None:
    assert [holds_credentials(address) for address in addresses] == [said] * len(addresses)


TEXT = st.text(st.characters(codec="ascii", exclude_characters=' ",\\'), min_size=1)


@example("http", "A", ":#")
@example("s3", "A", ":/:")
@given(st.sampled_from(["http", "https", "s3"]), st.from_regex(r"[A-Za-z]+", fullmatch=True), TEXT)
def test_whatever_the_password_is(scheme: str, user: str, password: str) -> None:
    """But for one like `8000/x`, which reads as a port and a path."""
    assert holds_credentials(f"{scheme}://{user}:x{password}@host/path")


# Recipes: addresses and variables.

FIELDS = ["models.teacher", "data.train", "distill.endpoint", "reward.judge.endpoint"]


@pytest.mark.parametrize("field", [*FIELDS, "resources.every.env", "resources.eval.image"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_recipe_takes_no_address_with_credentials(field: str, address: str) -> None:
    value = f"""'{{"HF_ENDPOINT": "http://other,{address}"}}'""" if "env" in field else address
    more = " reward.judge.model=m" if "judge" in field else ""
    with pytest.raises(UserInputError, match=rf"^{field} holds a user or password") as caught:
        find_recipe("tiny", [f"{field}={value}{more}"])
    assert PLANTED not in str(caught.value)


REFUSED = [
    *("PELICAN_JUDGE_KEY", "DB_PASS", "GITHUB_PAT", "DATABASE_URL", "LD_PRELOAD", "PYTHONPATH"),
    *("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HTTPS_PROXY", "BASH_ENV", "S3_ENDPOINT_URL", "PATH"),
    *("PELICAN_JUDGE_KEY_HOSTS", "PELICAN_NOTIFY_URL", "db_password", "nccl_debug", ""),
    *(row.name for row in ROWS if row.secret),
]
TAKEN = [
    *("NCCL_IB_HCA", "NCCL_IB_PKEY", "UCX_TLS", "GLOO_SOCKET_IFNAME", "HF_HOME", "OMP_NUM_THREADS"),
    *("TOKENIZERS_PARALLELISM", "PELICAN_GENERATION_SERVERS", "PYTORCH_CUDA_ALLOC_CONF"),
]


def with_variable(name: str, stage: str = "every") -> str:
    return f"resources.{stage}.env='{json.dumps({name: PLANTED})}'"


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("stage", ["every", "train_rl"])
def test_a_recipe_sets_no_variable_that_may_hold_a_secret(name: str, stage: str) -> None:
    with pytest.raises(UserInputError, match=rf"resources.{stage}.env: .*{name}") as caught:
        find_recipe("tiny", [with_variable(name, stage)])
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("name", TAKEN)
def test_a_recipe_sets_what_libraries_read(name: str) -> None:
    assert find_recipe("tiny", [with_variable(name)]).resources.of("eval").env == {name: PLANTED}


def test_who_submits_may_allow_more_but_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELICAN_ENV_PREFIXES", "DATABASE_, WANDB_")
    assert find_recipe("tiny", [with_variable("DATABASE_URL"), "loops=2"])
    for name in ("WANDB_API_KEY", "DATABASE_PASSWORD", "LD_PRELOAD"):
        with pytest.raises(UserInputError, match=name):
            find_recipe("tiny", [with_variable(name)])
    variables = step_pods(S3Store("s3://bucket/store")).variables
    assert variables["PELICAN_ENV_PREFIXES"] == "DATABASE_, WANDB_", "a step's preflight has it too"


def test_the_page_lists_the_beginnings_that_are_taken() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    listed = page.partition("takes names that begin with")[2].partition(", and no secret")[0]
    assert set(re.findall(r"[A-Z]+_", listed)) == set(PREFIXES)


def test_a_recipe_given_to_kubeflow_is_checked_and_a_stored_one_is_read() -> None:
    tree = find_recipe("tiny").model_dump()
    tree["resources"]["every"]["env"] = {"DB_PASS": PLANTED}
    with pytest.raises(UserInputError, match="DB_PASS"):
        parse_recipe(json.dumps(tree))
    assert Recipe.model_validate(tree)  # of a run that was started before the check


# Addresses of the environment, and of a store.


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_stores_address_with_credentials_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PELICAN_STORE", address)
    for use in (open_store, S3Store, local_path, env.store_uri, lambda _: env.store_uri()):
        with pytest.raises(UserInputError) as caught:
            use(address)
        assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("name", ["KFP_HOST", "KFP_UI", "PELICAN_PUSHGATEWAY"])
def test_addresses_that_are_written_down_hold_no_password(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("KFP_HOST", "http://host")
    monkeypatch.setenv(name, "http://user:planted@host:8888")
    make = (
        Target.from_environment if name == "PELICAN_PUSHGATEWAY" else KfpSettings.from_environment
    )
    with pytest.raises(UserInputError, match=f"{name} holds a user or password") as caught:
        make()
    assert PLANTED not in str(caught.value)


# Keys of endpoints go to the hosts that they are for.

BOUND: list[tuple[str, bool]] = [
    ("", False),
    (",", False),
    ("127.0.0.1", True),
    ("judge.example, 127.0.0.1 ", True),
    ("127.0.0.1:{port}", True),
    ("127.0.0.1:1", False),
    ("127.0.0", False),
    ("example.127.0.0.1", False),
    ("*", False),
]


@pytest.mark.parametrize(("hosts", "sent"), BOUND)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_sent_to_its_hosts_alone(
    monkeypatch: pytest.MonkeyPatch, key: str, hosts: str, sent: bool
) -> None:
    with chatting(lambda body: "yes") as server:
        port = server.url.split(":")[2].split("/")[0]
        monkeypatch.setenv(key, PLANTED)
        monkeypatch.setenv(f"{key}_HOSTS", hosts.format(port=port))
        client = ChatClient(server.url, "m", who="it", setting="--it", key_variable=key)
        client.ask({"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]})
        served_models(server.url, "--it", key)
        assert ("planted" in str(server.headers)) is sent
        server.answer = lambda body: 401
        words = f"refuses the key .*set {key}$" if sent else f"wants a key .*{key}_HOSTS=127.0.0.1:"
        with pytest.raises(UserInputError, match=words):
            client.ask({"messages": []})


def test_every_key_of_an_endpoint_has_its_row_of_hosts() -> None:
    assert {f"{key}_HOSTS" for key in KEYS} == {r.name for r in ROWS if r.name.endswith("_HOSTS")}


@pytest.mark.parametrize("address", ["http://user:planted@host/v1", "http://u:p/planted@host/v1"])
def test_an_endpoints_address_with_credentials_is_not_shown(address: str) -> None:
    for ask in (
        lambda: ChatClient(address, "m", who="it", setting="--it", key_variable=KEYS[0]),
        lambda: served_models(address, "--it", KEYS[0]),
    ):
        with pytest.raises(UserInputError, match="--it holds a user or password") as caught:
            ask()
        assert PLANTED not in str(caught.value)


# What is written: no planted secret in a pipeline, a job, a record, a report or a log.


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every secret variable of the tables, set."""
    found = {row.name: f"{PLANTED}-{row.name.lower()}" for row in ROWS if row.secret}
    assert len(found) >= 9
    found["PELICAN_NOTIFY_URL"] = f"http://127.0.0.1:9/{PLANTED}"
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    return found


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_no_pipeline_holds_a_secret(planted: dict[str, str], name: str, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    setup = step_pods(S3Store("s3://bucket/store"))
    compile_pipeline(name, for_pipeline(name, find_recipe("tiny", ["loops=1"])), path, setup)
    assert "pelican-s3" in path.read_text() and PLANTED not in path.read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_no_job_holds_a_secret(planted: dict[str, str], stage: Any) -> None:
    spec = StageSpec(
        stage=stage,
        store="s3://bucket/store",
        run="made",
        loop=1,
        phase=Phase.RL,
        output=f"runs/made/loop-1/{stage}-rl",
        inputs={},
        recipe=find_recipe("tiny"),
    )
    settings = S3Store("s3://bucket/store").settings.variables()
    target = Target.from_environment()
    text = json.dumps(build_job(make_job(spec), target, "s3://bucket/spec.json", settings))
    assert "pelican-s3" in text and PLANTED not in text


def test_no_file_of_a_run_and_nothing_printed_holds_a_secret(
    planted: dict[str, str], world: World
) -> None:
    """A run that failed, then went on to its end; records, logs, report."""
    outcomes = []
    for wish in ({"do": "crash"}, {}):
        outcomes.append(world.submit("--run", "made", overrides="loops=1", train_sft=wish))
    assert [done.returncode for done in outcomes] == [1, 0]
    files = {path: path.read_bytes() for path in world.store.root.rglob("*") if path.is_file()}
    names = {path.name for path in files}
    assert {"report.html", "recipe.json", "run.json", "manifest.json", "pipeline.log"} <= names
    assert not [path for path, data in files.items() if PLANTED.encode() in data]
    assert PLANTED not in "".join(done.stdout + done.stderr for done in outcomes)
