"""The trigger as a web service: bucket notifications in, batches and runs out."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pelican.base.net import ID, SIGNATURE, TIMESTAMP, sign
from pelican.retrain.trigger import inbox
from pelican.retrain.trigger.config import Metrics, TriggerConfig
from pelican.retrain.trigger.inbox import HEAD, ROOT, MalformedError, is_wanted, parse_notification
from pelican.retrain.trigger.worker import Submitter, Worker
from pelican.storage.store import ObjectStore

# Who may send events: a bearer token, or a signature after the Standard Webhooks specification.

_MAX_HEADER = 1024


class RefusedError(Exception):
    """A request that is not let in; `reason` is a short word for the counter."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class Sender:
    """An authenticated request; `request_id` only if it was signed."""

    kind: str
    request_id: str | None = None


def authenticate(
    headers: Mapping[str, str],
    body: bytes,
    tokens: Sequence[SecretStr],
    secrets: Sequence[SecretStr],
    tolerance_s: float,
    now: float,
) -> Sender:
    """Raises RefusedError (401). Every token and key is compared, in constant time."""
    if SIGNATURE in headers:
        return _check_signature(headers, body, secrets, tolerance_s, now)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise RefusedError(401, "unsigned", "a bearer token or a signature is needed")
    matches = [_equal(given.strip().encode(), token) for token in tokens]
    if not any(matches):
        raise RefusedError(401, "wrong_token", "the token is not known")
    return Sender("bearer")


def _check_signature(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[SecretStr],
    tolerance_s: float,
    now: float,
) -> Sender:
    request_id, stamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    given = headers[SIGNATURE]
    if not request_id or max(map(len, (request_id, stamp, given))) > _MAX_HEADER:
        raise RefusedError(401, "malformed_signature", f"{ID} is missing or a header is too long")
    if not (stamp.isascii() and stamp.isdecimal()) or len(stamp) > 15:
        raise RefusedError(401, "malformed_signature", f"{TIMESTAMP} is not a number of seconds")
    made = [sign(secret.get_secret_value(), request_id, int(stamp), body) for secret in secrets]
    parts = given.split()[:8]
    matches = [
        hmac.compare_digest(one.encode(), part.encode("utf-8", "replace"))
        for one in made
        for part in parts
    ]
    if not any(matches):
        raise RefusedError(401, "wrong_signature", "the signature does not fit the request")
    if abs(now - int(stamp)) > tolerance_s:
        raise RefusedError(401, "stale", f"{TIMESTAMP} is more than {tolerance_s:g} s off")
    return Sender("signature", request_id)


def _equal(given: bytes, token: SecretStr) -> bool:
    """Compared by digest, so that the time does not tell the length either."""
    wanted = token.get_secret_value().encode()
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())


# How many requests one address may make: a token bucket each, of the addresses seen last.

ADDRESSES = 10_000


class RateLimit:
    """`burst` requests at once, refilled at `rate` a second. Thread-safe."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """0 if the request may pass, else the seconds until the next may."""
        with self._lock:
            now = self.clock()
            left, at = self._buckets.pop(address, (float(self.burst), now))
            left = min(self.burst, left + (now - at) * self.rate)
            allowed = left >= 1
            self._buckets[address] = (left - allowed, now)
            if len(self._buckets) > ADDRESSES:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self.rate


# The trigger as a web service: bucket notifications in, batches and runs out.

log = logging.getLogger("pelican.retrain.trigger")
EVENTS = "/v1/events/s3"
BODY_S = 30


def create_apps(
    store: ObjectStore,
    config: TriggerConfig,
    submitter: Submitter,
    clock: Callable[[], float] = time.time,
    *,
    apart: bool = False,
) -> tuple[FastAPI, FastAPI]:
    """What takes events, and what answers probes. No page describes them to strangers.

    Args:
        store: of the trigger's state and its runs.
        config: of the trigger.
        submitter: starts the runs.
        clock: seconds since 1970.
        apart: the first does not answer probes too. Its worker runs from its startup to its end.
    """
    metrics = Metrics()
    worker = Worker(store, config, submitter, metrics, clock)
    limit = RateLimit(config.rate, config.burst, time.monotonic)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=worker.run, name="worker", daemon=True)
        thread.start()
        yield
        await run_in_threadpool(worker.stop)
        await run_in_threadpool(thread.join, 30)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    probes = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        metrics.requests.labels(error.reason).inc()
        headers = {"Retry-After": "5"} if error.status in (429, 503) else {}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": error.message}, error.status, headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        metrics.requests.labels("error").inc()
        return JSONResponse({"error": "internal error"}, 500)

    @app.post(EVENTS)
    async def events(request: Request) -> Response:
        address = request.client.host if request.client else "unknown"
        wait = limit.wait_s(address)
        if wait:
            raise RefusedError(429, "rate", f"too many requests; wait {math.ceil(wait)} s")
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read(request, config.max_body)
        except TimeoutError:
            raise RefusedError(408, "slow", f"the body took more than {BODY_S} s") from None
        except ClientDisconnect:
            raise RefusedError(400, "cut_off", "the request was cut off") from None
        headers = {name.lower(): value for name, value in request.headers.items()}
        sender = authenticate(
            headers, body, config.tokens, config.secrets, config.tolerance_s, clock()
        )
        counted = await run_in_threadpool(_receive, worker, sender, body)
        metrics.requests.labels("accepted").inc()
        return JSONResponse(counted, 202)

    answers = _make_probes(worker)
    probes.include_router(answers)
    if not apart:
        app.include_router(answers)
    return app, probes


def _make_probes(worker: Worker) -> APIRouter:
    """Liveness, readiness and what Prometheus scrapes.

    Events are kept while the worker can't do its part, but nobody should think that all is well.
    """
    router = APIRouter()

    @router.get("/healthz")
    async def health() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz")
    async def ready() -> Response:
        try:
            await run_in_threadpool(worker.store.exists, HEAD)
        except Exception as error:
            log.warning("not ready: %s: %s", type(error).__name__, error)
            return JSONResponse({"status": "the store does not answer"}, 503)
        if worker.trouble:
            return JSONResponse({"status": worker.trouble}, 503)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics")
    async def scrape() -> Response:
        return Response(
            worker.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


async def _read(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes whatever its header says."""
    declared = request.headers.get("content-length", "")
    too_large = RefusedError(413, "too_large", f"the body is above {limit} bytes")
    if declared.isdecimal() and (len(declared) > 15 or int(declared) > limit):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _receive(worker: Worker, sender: Sender, body: bytes) -> dict[str, int]:
    """Keep the events, then the request's id: a request that was cut off may be sent again."""
    store, config, metrics = worker.store, worker.config, worker.metrics
    try:
        if sender.request_id is not None and store.exists(_request_key(sender.request_id)):
            raise RefusedError(409, "replayed", "this request was received before")
        events = parse_notification(body, config.max_events)
        wanted = [event for event in events if is_wanted(event, config)]
        counted = Counter[str](worker.inbox.receive(event) for event in wanted)
        results = {"ignored": len(events) - len(wanted), **counted}
        if counted["new"]:
            inbox.record(store, worker.replica, "received", by=sender.kind, **results)
        if sender.request_id is not None:
            stamp = json.dumps({"at": worker.clock()}).encode()
            store.write(_request_key(sender.request_id), stamp, if_absent=True)
    except MalformedError as error:
        raise RefusedError(400, "malformed", str(error)) from None
    except RefusedError:
        raise
    except Exception as error:  # the sender keeps the event and sends it again
        log.warning("the store failed: %s: %s", type(error).__name__, error)
        raise RefusedError(503, "store", "the store does not answer; send it again") from None
    for name, count in results.items():
        metrics.events.labels(name).inc(count)
    return {name: count for name, count in sorted(results.items()) if count}


def _request_key(request_id: str) -> str:
    name = hashlib.sha256(request_id.encode("utf-8", "replace")).hexdigest()[:32]
    return f"{ROOT}/requests/{name}.json"
