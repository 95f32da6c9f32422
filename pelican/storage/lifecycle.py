"""Rules by which a bucket deletes by itself what no manifest of a store refers to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from minio.commonconfig import ENABLED, AndOperator, Filter
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule

from pelican.errors import UserInputError
from pelican.storage.s3_client import work_tags

if TYPE_CHECKING:
    from pelican.storage.objects import ObjectStore
    from pelican.storage.s3 import S3Store

UPLOAD_DAYS = 3  # no upload takes that long


def rules_of(store: S3Store, days: int) -> list[Rule]:
    """The rules of this store, beside which those of other prefixes stay."""
    below = f"{store.prefix}/" if store.prefix else ""
    own = _own(store)
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
        rules.append(
            Rule(
                ENABLED,
                rule_id=f"{own}work",
                rule_filter=Filter(and_operator=AndOperator(prefix=below, tags=work_tags())),
                expiration=Expiration(days=days),
            )
        )
    return rules


def set_rules(store: ObjectStore, days: int) -> list[Rule]:
    """Replace this store's rules of its bucket; others stay. Returns what now holds for it.

    Raises UserInputError if the store is a folder, or the endpoint knows no such rules.
    """
    from minio.error import S3Error

    from pelican.storage.s3 import S3Store
    from pelican.storage.s3_client import told

    if not isinstance(store, S3Store):
        raise UserInputError(f"the store {store.uri} is a folder; `pelican gc` cleans it")
    if days < 1:
        raise UserInputError(f"--days {days} is less than a day, which no rule can say")
    client, own = store.client, _own(store)
    made = rules_of(store, days)
    with told(store.settings, store.bucket):
        try:
            before = client.get_bucket_lifecycle(store.bucket)
            others = [r for r in (before.rules if before else []) if not _starts(r, own)]
            client.set_bucket_lifecycle(store.bucket, LifecycleConfig([*others, *made]))
            after = client.get_bucket_lifecycle(store.bucket)
        except S3Error as error:
            if error.code not in ("NotImplemented", "MethodNotAllowed", "MalformedXML"):
                raise
            raise UserInputError(
                f"{store.settings.endpoint} takes no such lifecycle rules ({error.code});"
                " run `pelican gc` now and then instead"
            ) from None
    return [rule for rule in (after.rules if after else []) if _starts(rule, own)]


def meaning(rule: Rule) -> str:
    """A rule as one line."""
    if rule.expiration is None or rule.expiration.days is None:
        return f"uploads that were broken off: deleted after {UPLOAD_DAYS} days"
    what = "work/ of stages, with claims" if is_of_work(rule) else "cache/"
    return f"{what}: deleted after {rule.expiration.days} days"


def is_of_work(rule: Rule) -> bool:
    return (rule.rule_id or "").endswith("-work")


def _own(store: S3Store) -> str:
    """How the identifiers of this store's rules begin: several stores may share a bucket."""
    return f"pelican-{hashlib.sha256(store.prefix.encode()).hexdigest()[:8]}-"


def _starts(rule: Rule, own: str) -> bool:
    return (rule.rule_id or "").startswith(own)
