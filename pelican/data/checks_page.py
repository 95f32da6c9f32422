"""The page of a check: one HTML file with counts, and thumbnails of the faulty rows."""

from __future__ import annotations

import base64
import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pelican.base.files import replacing
from pelican.data.checks import CHECKS, Checked, Finding
from pelican.data.images import FORMATS, as_seen, image_bytes, refused_above
from pelican.data.tables import open_parquet
from pelican.data.versions import read_quarantine

SHOWN = 40  # rows of one check
SIDE = 160  # pixels of a thumbnail
PICTURES = 3  # of one row

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ name }}: check</title><style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .8rem .25rem 0;
text-align:left;vertical-align:top;border-bottom:1px solid #ddd}td.n{text-align:right}
img{max-height:120px;margin:0 .3rem .3rem 0}code{font-size:13px;word-break:break-all}
.error{color:#a4161a}.warning{color:#8a5a00}.ok{color:#2b6a30}
@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}
.error{color:#ff8a8a}.warning{color:#e8b04a}.ok{color:#7fcf86}}
</style></head><body>
<h1>{{ name }}</h1>
<p>{{ rows }} rows, {{ images }} images{% if version %}, version <code>{{ version }}</code>{% endif %}.
<b class="{{ 'ok' if passes else 'error' }}">{{ verdict }}</b></p>
<table><tr><th>check</th><th>found</th><th></th><th>looks for</th></tr>
{% for check in checks %}<tr><td><a href="#{{ check.name }}">{{ check.name }}</a></td>
<td class="n {{ check.kind if check.count else 'ok' }}">{{ check.count }}</td><td>{{ check.kind }}</td>
<td>{{ check.about }}</td></tr>{% endfor %}</table>
<h2>Counts</h2><table>
{% for name, values in counts.items() %}<tr><td>{{ name }}</td><td>{% for value, n in values %}
{{ value or 'unknown' }} <b>{{ n }}</b>{{ ', ' if not loop.last }}{% endfor %}</td></tr>{% endfor %}</table>
{% for check in checks if check.count %}<h2 id="{{ check.name }}">{{ check.name }}</h2>
<p>{{ check.about }}: {{ check.count }}{% if check.count > check.shown|length %}, the first
{{ check.shown|length }} are shown{% endif %}.</p><table>
{% for row in check.shown %}<tr><td>{% for picture in row.pictures %}
<img src="data:image/jpeg;base64,{{ picture }}" alt="">{% endfor %}</td>
<td><code>{{ row.finding.id or 'the pool' }}</code><br>{{ row.finding.reason }}
{% if row.question %}<br><i>{{ row.question }}</i>{% endif %}
{% if row.finding.shard %}<br><small>{{ row.finding.shard }}, row {{ row.finding.row }}</small>{% endif %}
</td></tr>{% endfor %}</table>{% endfor %}
{% if left_out %}<h2>Left out when it was imported</h2>
<p>quarantine.jsonl names every row; mend the source and import again.</p>
<table><tr><th>reason</th><th>rows</th><th>the first</th></tr>
{% for code, count, first in left_out %}<tr><td>{{ code }}</td><td class="n">{{ count }}</td>
<td>{{ first.place }}: {{ first.reason }}</td></tr>{% endfor %}</table>{% endif %}
</body></html>
"""


def write_page(path: Path, checked: Checked, threshold: float) -> None:
    """Write the findings of a check as one HTML file that needs no other.

    `threshold` is the share of faulty rows that still passes.
    """
    chosen = {name: checked.findings.of(name)[:SHOWN] for name in CHECKS}
    rows = _read(checked, [finding for found in chosen.values() for finding in found])
    folder = checked.scan.folder
    root = folder if folder.is_dir() else folder.parent
    checks = [
        {
            "name": name,
            "kind": kind,
            "about": about,
            "count": checked.findings.counts[name],
            "shown": [_shown(finding, rows, root) for finding in chosen[name]],
        }
        for name, (kind, about) in CHECKS.items()
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    counts = {name: values.most_common(30) for name, values in sorted(checked.scan.counts.items())}
    text = environment.from_string(_TEMPLATE).render(
        name=folder.name,
        rows=checked.rows,
        images=checked.scan.images,
        version=checked.version,
        passes=checked.passes(threshold),
        verdict=verdict(checked, threshold),
        checks=checks,
        counts=counts,
        left_out=_left_out(folder),
    )
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def _left_out(folder: Path) -> list[tuple[str, int, dict[str, str]]]:
    """(code, rows, the first of them) of what an import put in quarantine, the most first."""
    counts: Counter[str] = Counter()
    first: dict[str, dict[str, str]] = {}
    for row in read_quarantine(folder):
        counts[row["code"]] += 1
        first.setdefault(row["code"], row)
    return [(code, count, first[code]) for code, count in counts.most_common()]


def verdict(checked: Checked, threshold: float) -> str:
    """One sentence."""
    faulty = len(checked.findings.faulty)
    share = f"{faulty} of {checked.rows} rows are faulty ({checked.bad_share:.2%})"
    of_pool = checked.findings.pool_errors
    more = f", and {of_pool} faults are of the whole pool" if of_pool else ""
    within = "within" if checked.passes(threshold) else "above"
    if of_pool and checked.bad_share <= threshold:
        return f"{share}{more}."
    return f"{share}{more}: {within} the threshold of {threshold:.2%}."


def _read(checked: Checked, findings: list[Finding]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of some findings, a shard at a time; a row that can't be read is left out."""
    wanted: dict[str, set[int]] = {}
    for finding in findings:
        if finding.row > 0:
            wanted.setdefault(finding.shard, set()).add(finding.row)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in checked.scan.index.shards:
        rows, at = wanted.get(path.name, set()), 1
        if not rows:
            continue
        for batch in open_parquet(path).iter_batches(batch_size=16, columns=["images", "turns"]):
            for i in range(batch.num_rows):
                if at in rows:
                    with contextlib.suppress(UnicodeDecodeError):
                        found[path.name, at] = _small(batch.slice(i, 1).to_pylist()[0])
                at += 1
    return found


def _small(row: dict[str, Any]) -> dict[str, Any]:
    """Not all frames of a clip: hundreds of rows are held at once."""
    return {"images": (row["images"] or [])[:PICTURES], "turns": row["turns"]}


def _shown(
    finding: Finding, rows: dict[tuple[str, int], dict[str, Any]], root: Path
) -> dict[str, Any]:
    row = rows.get((finding.shard, finding.row))
    if row is None:
        return {"finding": finding, "pictures": [], "question": ""}
    pictures = [thumbnail(image, root) for image in row["images"]]
    turns = row["turns"] or [{"text": ""}]
    question = str(turns[-1].get("text") or "")[:300]
    return {"finding": finding, "pictures": [p for p in pictures if p], "question": question}


def thumbnail(image: object, root: Path) -> str:
    """Base64 of a small JPEG; "" for what can't be opened."""
    try:
        data = image_bytes(image, root)
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > refused_above(1):
                return ""
            picture.draft("RGB", (SIDE * 2, SIDE * 2))
            small = as_seen(picture)
            small.thumbnail((SIDE, SIDE))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=80)
            return base64.b64encode(out.getvalue()).decode()
    except Exception:  # what failed may fail again, in any way
        return ""
