"""The notice of how a retraining ended: one signed POST, shaped so that Slack shows it.

`text` is what Slack displays; the other fields are for programs. With PELICAN_NOTIFY_SECRET the
request is signed after the Standard Webhooks specification, as the trigger checks it.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from pelican.base.net import ID, SIGNATURE, TIMESTAMP, sign
from pelican.config import env
from pelican.retrain.records import Verdict, read_verdict
from pelican.runs.layout import read_failure, read_json, run_prefix
from pelican.storage.reading import tell
from pelican.storage.store import ObjectStore

URL, SECRET, LINK = "PELICAN_NOTIFY_URL", "PELICAN_NOTIFY_SECRET", "PELICAN_NOTIFY_LINK"
TRIES, WAIT_S, TIMEOUT_S = 3, 1.0, 10.0


def notify(store: ObjectStore, run: str) -> str | None:
    """Send the verdict, or the failure, of a run; returns what became of it, None without a URL.

    Never raises: a run does not fail because the notice could not be sent. What happened is kept in
    `runs/<run>/notification.json`; each outcome of a run is sent once.
    """
    url = env.read(URL)
    if not url:
        return None
    key = f"{run_prefix(run)}/notification.json"
    message = message_of(store, run)
    before = read_json(store, key)
    if before is not None and before["sent"] and before["outcome"] == message["outcome"]:
        return "sent before"
    result = send(url, message, env.read(SECRET) or None, f"{run}-{message['outcome']}")
    record = {"outcome": message["outcome"], "sent": result == "sent", "result": result}
    store.write(key, json.dumps(record, indent=1).encode())
    return result


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
    """POST `message`; tried again after a server's error. Returns `sent` or what went wrong."""
    if urlsplit(url).scheme not in ("http", "https"):
        return f"{URL} is not an http address"
    body = json.dumps(message).encode()
    result = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT_S * 2**attempt)
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if secret:
            stamp = int(time.time())
            request.add_header(ID, request_id)
            request.add_header(TIMESTAMP, str(stamp))
            request.add_header(SIGNATURE, sign(secret, request_id, stamp, body))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return "sent"
        except urllib.error.HTTPError as error:
            result = f"the receiver answered {error.code}"
            if error.code < 500 and error.code != 429:
                break
        except OSError as error:
            result = f"not reached: {error}"
    return result
