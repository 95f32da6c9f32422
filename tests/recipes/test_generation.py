"""Where completions come from: what fits together, which GPUs a server gets, what is refused early."""

from __future__ import annotations

import pytest

from pelican.commands.generation import serve_completions
from pelican.errors import UserInputError
from pelican.preflight import check_servers
from pelican.recipes import find_recipe

SERVER = "model.cache_vision=false parallel.micro_tokens=4096 rl.generation.where=server"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("rl.generation.where=server", "set parallel.micro_tokens"),
        ("rl.generation.max_staleness=1", "need rl.generation.where=server"),
        ("rl.generation.servers=http://a:1", "need rl.generation.where=server"),
        (f"{SERVER} rl.generation.servers=http://a:1", "need rl.generation.folder"),
        (f"{SERVER} rollout.engine=replay", "rollout.engine=vllm or transformers"),
        (f"{SERVER} rl.generation.tolerance=0", "tolerance=0"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words):
        find_recipe("tiny", [overrides])


def test_servers_are_named_with_commas() -> None:
    named = "rl.generation.servers=http://a:1,http://b:2 rl.generation.folder=/weights"
    found = find_recipe("tiny", [f"{SERVER} {named}"]).rl.generation
    assert found.servers == ("http://a:1", "http://b:2")
    alone = "rl.generation.servers=http://a:1 rl.generation.folder=/weights"
    assert find_recipe("tiny", [f"{SERVER} {alone}"]).rl.generation.servers == ("http://a:1",)


def test_several_pods_need_a_server_that_is_named() -> None:
    pods = f"{SERVER} resources.train_rl.replicas=2"
    with pytest.raises(UserInputError, match=r"2 pods.*generation-server"):
        check_servers(find_recipe("tiny", [pods]))
    named = "rl.generation.servers=http://a:1 rl.generation.folder=/weights"
    check_servers(find_recipe("tiny", [f"{pods} {named}"]))
    check_servers(find_recipe("tiny", [SERVER]))
    check_servers(find_recipe("tiny", ["resources.train_rl.replicas=2"]))


def test_a_server_wants_to_know_where_weights_are_left() -> None:
    for overrides in ([], [SERVER]):
        with pytest.raises(UserInputError, match=r"rl.generation.folder, as in the training"):
            serve_completions("tiny", overrides, None, "127.0.0.1", 0)
