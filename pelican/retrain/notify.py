"""The notice of how a retraining ended: one signed POST, shaped so that Slack shows it.

`text` is what Slack displays; the other fields are for programs. With PELICAN_NOTIFY_SECRET the
request is signed after the Standard Webhooks specification, as the trigger checks it.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pelican.base.net import ID, SIGNATURE, TIMESTAMP, sign
from pelican.base.parse import parse_json
from pelican.config import env
from pelican.errors import DamagedError, PelicanError
from pelican.retrain.records import Verdict, read_verdict
from pelican.runs.layout import read_failure, run_prefix
from pelican.storage.reading import tell
from pelican.storage.store import ObjectStore

URL, SECRET, LINK = "PELICAN_NOTIFY_URL", "PELICAN_NOTIFY_SECRET", "PELICAN_NOTIFY_LINK"
TRIES, WAIT_S, TIMEOUT_S = 3, 1.0, 10.0
ANSWER_S = 30.0  # one try, whole: TIMEOUT_S is of one read, and a receiver may drip


def notify(store: ObjectStore, run: str) -> str | None:
    """Send the verdict, or the failure, of a run; returns what became of it, None without a URL.

    Never raises: a run does not fail because the notice could not be sent. What happened is kept in
    `runs/<run>/notification.json`; each outcome of a run is sent once.
    """
    url = env.read(URL)
    if not url:
        return None
    try:
        return _notify(store, run, url)
    except Exception as error:  # the run has ended, and well or badly that stands
        return f"not sent: {error if isinstance(error, PelicanError) else type(error).__name__}"


def _notify(store: ObjectStore, run: str, url: str) -> str:
    key = f"{run_prefix(run)}/notification.json"
    message = message_of(store, run)
    if _sent_before(store, key, message["outcome"]):
        return "sent before"
    result = send(url, message, env.read(SECRET).strip() or None, f"{run}-{message['outcome']}")
    record = {"outcome": message["outcome"], "sent": result == "sent", "result": result}
    store.write(key, json.dumps(record, indent=1).encode())
    return result


def _sent_before(store: ObjectStore, key: str, outcome: str) -> bool:
    """Whether the record says so; a damaged one says nothing, so the notice may come twice."""
    try:
        before = parse_json(store.read(key))
    except (KeyError, ValueError, DamagedError):
        return False
    return (
        isinstance(before, dict) and before.get("sent") is True and before.get("outcome") == outcome
    )


def message_of(store: ObjectStore, run: str) -> dict[str, Any]:
    """The verdict in a sentence, with its reasons and links."""
    verdict = read_verdict(store, run)
    link = env.read(LINK).replace("{run}", run)
    where = link or f"{store.uri}/{run_prefix(run)}/report.html"
    if verdict is None:
        failure = read_failure(store, run, tell)
        text = f"Retraining {run} failed: {failure.message if failure else 'see its log'}"
        return {"text": f"{text}\n{where}", "run": run, "outcome": "failed", "report": where}
    lines = [_headline(verdict), *(f"- {reason}" for reason in verdict.reasons[:5]), where]
    return {
        "text": "\n".join(lines),
        "run": run,
        "outcome": verdict.outcome,
        "data": verdict.data,
        "parent": verdict.parent,
        "version": verdict.version,
        "reasons": verdict.reasons,
        "report": where,
    }


def _headline(verdict: Verdict) -> str:
    model = verdict.version or verdict.parent
    return f"{model} on {verdict.data}: {verdict.outcome}"


def send(url: str, message: dict[str, Any], secret: str | None, request_id: str) -> str:
    """POST `message`; tried again after a server's error. Returns `sent` or what went wrong.

    Never raises and always ends, whatever the address is and whatever the receiver does. What it
    returns names no part of the address, which may hold a token.
    """
    result = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT_S * 2**attempt)
        result, again = _within(ANSWER_S, lambda: _post(url, message, secret, request_id))
        if not again:
            break
    return result


Tried = tuple[str, bool]  # what became of a try, and whether another may help
_WRONG: Tried = (f"{URL} is not an http address", False)


def _within(limit_s: float, work: Callable[[], Tried]) -> Tried:
    """What `work` returns, if it does in time. urllib knows no limit for a whole answer."""
    answer: queue.SimpleQueue[Tried] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(work()), daemon=True).start()
    try:
        return answer.get(timeout=limit_s)
    except queue.Empty:
        return f"the receiver gave no whole answer in {limit_s:g} s", True


def _post(url: str, message: dict[str, Any], secret: str | None, request_id: str) -> Tried:
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            return _WRONG
        body = json.dumps(message).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if secret:
            stamp = int(time.time())
            request.add_header(ID, request_id)
            request.add_header(TIMESTAMP, str(stamp))
            request.add_header(SIGNATURE, sign(secret, request_id, stamp, body))
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return "sent", False
    except urllib.error.HTTPError as error:
        error.close()
        return f"the receiver answered {error.code}", error.code >= 500 or error.code == 429
    except OSError as error:
        return f"not reached: {error}", True
    except (http.client.InvalidURL, UnicodeError):
        return _WRONG
    except http.client.HTTPException as error:
        return f"the receiver's answer is no HTTP ({type(error).__name__})", True
    except Exception as error:  # such as ValueError for an address, or a redirect to one
        return f"not sent: {type(error).__name__}", False
