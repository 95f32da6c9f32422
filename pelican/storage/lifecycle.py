"""Rules by which a bucket itself deletes what no manifest of a store refers to."""

from __future__ import annotations

import hashlib

from minio.commonconfig import ENABLED, AndOperator, Filter
from minio.error import S3Error
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule

from pelican.errors import UserInputError
from pelican.storage.s3 import S3Store, work_tags
from pelican.storage.s3_client import explain_errors
from pelican.storage.store import ObjectStore

UPLOAD_DAYS = 3  # no upload takes that long


def set_rules(store: ObjectStore, days: int) -> list[Rule]:
    """Replace this store's rules of its bucket, and leave those of others.

    Returns:
        The rules that the bucket has for this store now.

    Raises:
        UserInputError: the store is a folder, or the endpoint has no such rules.
    """
    if not isinstance(store, S3Store):
        raise UserInputError(f"the store {store.uri} is a folder; `pelican gc` cleans it")
    if days < 1:
        raise UserInputError(f"--days {days} is less than a day, which no rule can say")
    client, start = store.client, _id_start(store)
    with explain_errors(store.settings, store.bucket):
        try:
            before = client.get_bucket_lifecycle(store.bucket)
            foreign = [r for r in (before.rules if before else []) if not _starts(r, start)]
            rules = [*foreign, *_make_rules(store, days)]
            client.set_bucket_lifecycle(store.bucket, LifecycleConfig(rules))
            after = client.get_bucket_lifecycle(store.bucket)
        except S3Error as error:
            if error.code not in ("NotImplemented", "MethodNotAllowed", "MalformedXML"):
                raise
            raise UserInputError(
                f"{store.settings.endpoint} takes no such lifecycle rules ({error.code});"
                " run `pelican gc` now and then instead"
            ) from None
    return [rule for rule in (after.rules if after else []) if _starts(rule, start)]


def _make_rules(store: S3Store, days: int) -> list[Rule]:
    below = f"{store.prefix}/" if store.prefix else ""
    own = _id_start(store)
    rules = [
        Rule(
            ENABLED,
            rule_id=f"{own}uploads",
            rule_filter=Filter(prefix=below),
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(UPLOAD_DAYS),
            # MinIO clears uploads by itself, and takes no rule that does only that.
            expiration=Expiration(expired_object_delete_marker=True),
        ),
        Rule(
            ENABLED,
            rule_id=f"{own}cache",
            rule_filter=Filter(prefix=f"{below}cache/"),
            expiration=Expiration(days=days),
        ),
    ]
    if store.settings.tag_work:
        tagged = Filter(and_operator=AndOperator(prefix=below, tags=work_tags()))
        rules.append(
            Rule(
                ENABLED,
                rule_id=f"{own}work",
                rule_filter=tagged,
                expiration=Expiration(days=days),
            )
        )
    return rules


def describe_rule(rule: Rule) -> str:
    """What a rule deletes, and when, as one line."""
    if rule.expiration is None or rule.expiration.days is None:
        return f"uploads that were broken off: deleted after {UPLOAD_DAYS} days"
    what = "work/ of stages, with claims" if is_of_work(rule) else "cache/"
    return f"{what}: deleted after {rule.expiration.days} days"


def is_of_work(rule: Rule) -> bool:
    return (rule.rule_id or "").endswith("-work")


def _id_start(store: S3Store) -> str:
    """How the names of this store's rules start, because several stores may share a bucket."""
    return f"pelican-{hashlib.sha256(store.prefix.encode()).hexdigest()[:8]}-"


def _starts(rule: Rule, start: str) -> bool:
    return (rule.rule_id or "").startswith(start)
