"""Where completions come from: what fits together, which GPUs a server gets, what is refused early."""

from __future__ import annotations

import pytest

from pelican.cli.stage import serve_completions
from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.runs.preflight import check_servers

SERVER = "model.cache_vision=false parallel.micro_tokens=4096 rl.generation.where=server"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("rl.generation.where=server", "set parallel.micro_tokens"),
        ("rl.generation.max_staleness=1", "needs rl.generation.where=server"),
        (f"{SERVER} rollout.engine=replay", "rollout.engine=vllm or transformers"),
        (f"{SERVER} rl.generation.tolerance=0", "tolerance=0"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words):
        find_recipe("tiny", [overrides])


def test_servers_are_named_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.generation_servers() == ()
    monkeypatch.setenv(env.GENERATION_SERVERS, "http://a:1, http://b:2,")
    assert env.generation_servers() == ("http://a:1", "http://b:2")


def test_several_pods_need_a_server_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = f"{SERVER} resources.train_rl.replicas=2"
    check_servers(find_recipe("tiny", [pods]))  # local processes are of one machine
    monkeypatch.setenv("PELICAN_LAUNCHER", "pytorchjob")
    with pytest.raises(UserInputError, match=r"2 pods.*generation-server"):
        check_servers(find_recipe("tiny", [pods]))
    named = f"""resources.train_rl.env='{{"{env.GENERATION_SERVERS}": "http://a:1"}}'"""
    check_servers(find_recipe("tiny", [f"{pods} {named}"]))
    check_servers(find_recipe("tiny", [SERVER]))
    check_servers(find_recipe("tiny", ["resources.train_rl.replicas=2"]))


def test_a_server_wants_to_know_where_weights_are_left() -> None:
    with pytest.raises(UserInputError, match=r"--folder, or set PELICAN_GENERATION_FOLDER"):
        serve_completions("tiny", [SERVER], None, None, "127.0.0.1", 0)
