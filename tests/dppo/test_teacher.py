"""The endpoint's client against a real HTTP server; the engine's teacher; the verification."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from pelican.config.recipe import THINK_THEN_ANSWER, DistillConfig, RewardConfig, Sampling
from pelican.dppo.distillation import EndpointTeacher, Reply, verify
from pelican.errors import InfrastructureError, UserInputError
from pelican.records import BoxAnswer, ChoiceAnswer, Family, Turn
from tests.data.factory import clip, picture, sample
from tests.endpoints import Chat, chatting, completion, prompt_of


@pytest.fixture
def server() -> Iterator[Chat]:
    with chatting(lambda body: "<think>a</think><answer>1</answer>") as chat:
        yield chat


def ask(server: Chat, samples: Any, tries: int = 1, **options: Any) -> list[list[Reply]]:
    teacher = EndpointTeacher(server.url, "big", attempts=3, backoff_s=0.01, **options)
    return list(teacher.answer(samples, Sampling(temperature=0.7, max_tokens=64), tries, seed=3))


def test_replies_come_in_the_order_of_the_samples(server: Chat) -> None:
    import time

    def slow_first(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.1 if "kind 0 " in prompt_of(body) else 0)
        return 200, completion(f"{prompt_of(body)} {body['seed']}")

    server.answer = slow_first
    samples = [sample(i) for i in range(12)]
    replies = ask(server, samples, tries=3, concurrency=4)
    assert [r[0].text.rsplit(" ", 1)[0] for r in replies] == [s.question for s in samples]
    assert all(len({reply.text for reply in group}) == 3 for group in replies)
    assert all(reply.tokens == 7 and not reply.error for group in replies for reply in group)
    assert 1 < server.most <= 4
    assert replies == ask(server, samples, tries=3)  # the same seeds


def test_the_request_holds_pictures_times_and_the_settings(server: Chat) -> None:
    ask(server, [clip(1, [0, 1.5], images=(picture(1), picture(2, format="JPEG")))])
    (body,) = server.asked
    assert body["path"] == "/v1/chat/completions" and body["model"] == "big"
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 1.0, 64)
    system, user = body["messages"]
    assert system == {"role": "system", "content": THINK_THEN_ANSWER}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
    assert [user["content"][i]["text"] for i in (0, 2)] == ["0 s", "1.5 s"]
    head, data = user["content"][1]["image_url"]["url"].split(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == picture(1)
    assert user["content"][3]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_the_key_comes_from_the_environment_alone(
    server: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PELICAN_TEACHER_API_KEY", raising=False)
    ask(server, [sample(0)])
    monkeypatch.setenv("PELICAN_TEACHER_API_KEY", "secret")
    monkeypatch.setenv("PELICAN_TEACHER_API_KEY_HOSTS", "127.0.0.1")
    ask(server, [sample(0)])
    assert [h.get("authorization") for h in server.headers] == [None, "Bearer secret"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Chat, status: int) -> None:
    def once_busy(body: dict[str, Any]) -> tuple[int, Any]:
        return (status, {}) if len(server.asked) < 3 else (200, completion("good"))

    server.answer = once_busy
    assert ask(server, [sample(0)]) == [[Reply("good", 7)]]
    assert len(server.asked) == 3


def test_a_server_that_stays_away_is_an_infrastructure_error(server: Chat) -> None:
    server.answer = lambda body: (503, {})
    with pytest.raises(InfrastructureError, match=r"did not answer in 3 attempts .*status 503"):
        ask(server, [sample(0), sample(1)])
    teacher = EndpointTeacher("http://127.0.0.1:9/v1", "big", attempts=2, backoff_s=0.01)
    with pytest.raises(InfrastructureError, match="did not answer in 2 attempts"):
        list(teacher.answer([sample(0)], Sampling(), 1, 0))


@pytest.mark.parametrize(
    ("status", "words"), [(401, "PELICAN_TEACHER_API_KEY"), (403, "refuses"), (404, "'big'")]
)
def test_a_wrong_key_or_model_ends_in_one_sentence(
    server: Chat, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setenv("PELICAN_TEACHER_API_KEY", "secret")
    monkeypatch.setenv("PELICAN_TEACHER_API_KEY_HOSTS", "127.0.0.1")
    server.answer = lambda body: (status, {})
    with pytest.raises(UserInputError, match=words) as caught:
        ask(server, [sample(0)])
    assert "secret" not in str(caught.value) and len(server.asked) == 1


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(UserInputError, match="is not an http"):
        EndpointTeacher("file:///etc/passwd", "big")


@pytest.mark.parametrize(
    ("status", "reply", "error"),
    [
        (400, {"error": "too long"}, "refused the request (status 400)"),
        (302, {}, "refused the request (status 302)"),
        (200, {"choices": []}, "not a chat completion"),
        (200, b"<html>", "not a chat completion"),
        (200, ["no"], "not a chat completion"),
    ],
)
def test_a_refused_request_is_that_tries_error(
    server: Chat, status: int, reply: Any, error: str
) -> None:
    server.answer = lambda body: (
        (status, reply) if "0 " in prompt_of(body) else (200, completion("x"))
    )
    (bad,), (good,) = ask(server, [sample(0), sample(1)])
    assert error in bad.error and good == Reply("x", 7)


def test_thinking_that_the_server_splits_off_is_put_back(server: Chat) -> None:
    server.answer = lambda body: (
        200,
        completion("<answer>3</answer>", reasoning_content="I count three \ud800."),
    )
    ((reply,),) = ask(server, [sample(0)])
    assert reply.text == "<think>I count three ?.</think><answer>3</answer>"


def said(answer: str, think: str = "I look.") -> Reply:
    return Reply(f"<think>{think}</think><answer>{answer}</answer>", 5)


CHOICE = sample(
    0,
    answer=ChoiceAnswer(options=("a cup", "a can"), answer="B"),
    turns=(Turn(role="user", text="What is it?"),),
)


@pytest.mark.parametrize(
    ("replies", "accepted", "kept", "reason"),
    [
        ([said("A"), said("B")], True, 1, ""),
        ([said("B", "I look for long."), said("B"), said("B", "Also.. .")], True, 1, ""),
        ([said("A"), said("A")], False, 0, "wrong"),
        ([said("B", ""), said("A")], False, 0, "format"),
        ([Reply("<answer>B</answer>", 3)], False, 0, "format"),
        ([Reply("", 0, "refused"), said("A")], False, 1, "wrong"),
        ([Reply("", 0, "the endpoint refused")], False, 0, "the endpoint refused"),
        ([Reply("", 9)], False, 0, ""),
    ],
)
def test_only_what_our_reward_accepts_is_kept(
    replies: list[Reply], accepted: bool, kept: int, reason: str
) -> None:
    best = verify(CHOICE, replies, RewardConfig())
    assert best.accepted is accepted and best.text == replies[kept].text
    assert best.reason.startswith(reason) and bool(best.reason) is not accepted
    assert best.tries == len(replies) and best.tokens == sum(r.tokens for r in replies)


GUESSABLE = CHOICE.model_copy(update={"chance": 0.25})
RIGHT, WRONG = said("B"), said("A")


@pytest.mark.parametrize(
    ("guessable", "replies", "accepted", "reason"),
    [
        (None, [RIGHT, WRONG], True, ""),
        (0.25, [RIGHT, WRONG], True, ""),  # not above it
        (0.2, [RIGHT, WRONG], False, "right in 1 of 2 tries, which may be a guess"),
        (0.2, [RIGHT, RIGHT], True, ""),
        (0.2, [WRONG, RIGHT, RIGHT], True, ""),
        (0.2, [WRONG, RIGHT, RIGHT, WRONG], False, "right in 2 of 4 tries, which may be a guess"),
        (0.2, [WRONG, WRONG], False, "wrong"),
    ],
)
def test_one_right_try_may_be_a_guess(
    guessable: float | None, replies: list[Reply], accepted: bool, reason: str
) -> None:
    asked = DistillConfig(guessable=guessable)
    best = verify(GUESSABLE, replies, RewardConfig(), asked=asked)
    assert (best.accepted, best.reason) == (accepted, reason)
    assert best.accepted_tries == replies.count(RIGHT)


@pytest.mark.parametrize(
    ("box", "least", "accepted"),
    [
        ("[10, 10, 50, 50]", 0.8, True),
        ("[10, 10, 50, 40]", None, True),  # an overlap of 0.75
        ("[10, 10, 50, 40]", 0.7, True),
        ("[10, 10, 50, 40]", 0.8, False),
    ],
)
def test_a_graded_answer_can_be_asked_to_be_better_than_a_success(
    box: str, least: float | None, accepted: bool
) -> None:
    question = sample(0, family=Family.AFFORDANCE, answer=BoxAnswer(box=(10, 10, 50, 50)))
    asked = DistillConfig(min_score=least)
    best = verify(question, [said(box)], RewardConfig(), asked=asked)
    assert best.accepted is accepted
    assert best.reason == ("" if accepted else "task score 0.75 is less than 0.8")


def test_any_of_the_best_tries_can_be_learned_and_not_the_shortest_alone() -> None:
    tries = [said("B", "I look. " * (i + 1)) for i in range(4)]
    shortest = {verify(CHOICE, tries, RewardConfig(), salt=str(i)).text for i in range(40)}
    assert shortest == {tries[0].text}
    asked = DistillConfig(choose="random")
    chosen = [verify(CHOICE, tries, RewardConfig(), None, asked, str(i)).text for i in range(40)]
    assert set(chosen) == {reply.text for reply in tries}
    again = [verify(CHOICE, tries, RewardConfig(), None, asked, str(i)).text for i in range(40)]
    assert chosen == again
    with_wrong = [WRONG, *tries]
    assert verify(CHOICE, with_wrong, RewardConfig(), None, asked, "0").text != WRONG.text


def test_a_better_score_comes_before_chance() -> None:
    question = sample(0, family=Family.AFFORDANCE, answer=BoxAnswer(box=(10, 10, 50, 50)))
    tries = [said("[10, 10, 50, 40]"), said("[10, 10, 50, 50]"), said("[10, 10, 50, 45]")]
    asked = DistillConfig(choose="random")
    found = {verify(question, tries, RewardConfig(), None, asked, str(i)).text for i in range(9)}
    assert found == {tries[1].text}
