"""The judge of free text: majority, an endpoint, and where it may not stand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from pelican.errors import InfrastructureError
from pelican.recipe import JudgeConfig, RewardConfig
from pelican.records import Family, OpenAnswer
from pelican.rewards import judge_of
from pelican.rewards.judge import _chat, endpoint_judge, majority
from tests.rewards.made import graded

FELL = OpenAnswer(reference="the cup fell")


class Endpoint:
    """An OpenAI-compatible server that gives the replies it was told."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append({"path": self.path, **json.loads(body)})
                reply = outer.replies.pop(0)
                if isinstance(reply, int):
                    self.send_error(reply)
                    return
                data = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.config = JudgeConfig(
            endpoint=f"http://127.0.0.1:{self.server.server_port}/v1", model="judge", timeout_s=5
        )


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(_chat.retry, "sleep", lambda _: None)
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_without_a_judge_open_text_scores_nothing() -> None:
    found = graded(FELL, "the cup fell", Family.PLANNING)
    assert (found.task, found.reason) == (0, "no judge configured")


def test_any_callable_can_judge() -> None:
    def same(question: str, reference: str, answer: str) -> bool:
        assert question.startswith("How many cups")
        return reference == answer

    assert graded(FELL, "the cup fell", judge=same).task == 1
    assert graded(FELL, "it stands", judge=same).reason == "wrong"
    assert graded(FELL, "x" * 2001, judge=same).reason.startswith("refused")


@pytest.mark.parametrize(
    ("votes", "right", "asked"),
    [([1, 1, 0], True, 2), ([1, 0, 1], True, 3), ([0, 1, 0], False, 3), ([0, 0, 1], False, 2)],
)
def test_the_majority_decides_and_no_vote_is_wasted(
    votes: list[int], right: bool, asked: int
) -> None:
    numbers: list[int] = []

    def vote(question: str, reference: str, answer: str, number: int) -> bool:
        numbers.append(number)
        return bool(votes[number])

    assert majority(vote, 3)("q", "r", "a") is right
    assert numbers == list(range(asked))


def test_an_endpoint_votes_with_its_own_seeds(endpoint: Endpoint) -> None:
    endpoint.replies = ["Yes.", "no, other", "**yes**"]
    assert endpoint_judge(endpoint.config)("what?", "the cup fell", "it fell over")
    assert [body["seed"] for body in endpoint.asked] == [0, 1, 2]
    assert endpoint.asked[0]["path"] == "/v1/chat/completions"
    assert "it fell over" in endpoint.asked[0]["messages"][0]["content"]


def test_a_reply_that_is_neither_counts_as_no(endpoint: Endpoint) -> None:
    endpoint.replies = ["perhaps", None]
    assert not endpoint_judge(endpoint.config)("what?", "a", "b")


def test_a_judge_that_fails_once_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.replies = [503, "yes", "yes"]
    assert endpoint_judge(endpoint.config)("what?", "a", "a")


def test_a_judge_that_is_away_is_not_a_wrong_answer(endpoint: Endpoint) -> None:
    endpoint.replies = [500] * 4
    with pytest.raises(InfrastructureError, match="gave no reply"):
        endpoint_judge(endpoint.config)("what?", "a", "a")


def test_training_has_no_judge_unless_the_recipe_says_so() -> None:
    judge = JudgeConfig(endpoint="http://127.0.0.1:9/v1", model="m")
    assert judge_of(RewardConfig(), training=False) is None
    assert judge_of(RewardConfig(judge=judge), training=False) is not None
    assert judge_of(RewardConfig(judge=judge), training=True) is None
    always = judge.model_copy(update={"in_training": True})
    assert judge_of(RewardConfig(judge=always), training=True) is not None


def test_an_even_number_of_votes_is_refused() -> None:
    with pytest.raises(ValidationError, match="odd number"):
        JudgeConfig(endpoint="http://127.0.0.1:9/v1", model="m", votes=2)
