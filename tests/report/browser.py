"""A headless Chromium that opens a page, acts on it, and fails on whatever its console says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
_RESULT = re.compile(r'<script type="text/plain" id="result">(.*?)</script>', re.DOTALL)
# Runs what a test wants done once the page says that it is ready, and leaves the result behind.
_ACT = """<script>(async () => {
  const ready = () => document.body.dataset.ready === "yes";
  for (let n = 0; n < 4000 && !ready(); n += 1) await new Promise((go) => setTimeout(go, 25));
  const settle = () => new Promise((go) => setTimeout(go, 400));
  const result = await (async () => { %s })();
  const element = document.createElement("script");
  element.type = "text/plain";
  element.id = "result";
  element.textContent = encodeURIComponent(JSON.stringify(result));
  document.body.append(element);
})();</script>"""


def _chromium(*arguments: str, dark: bool = False) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless", "--disable-gpu", "--hide-scrollbars"]
        command += ["--enable-logging=stderr", f"--user-data-dir={profile}"]
        command += ["--virtual-time-budget=200000"]
        if dark:
            command += ["--blink-settings=preferredColorScheme=0"]
        if os.geteuid() == 0:
            command += ["--no-sandbox"]
        command += arguments
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]  # an error or a refused resource
    return done


def screenshot(page: Path, shot: Path, width: int, height: int, dark: bool = False) -> Path:
    """A picture of the page's upper `height` pixels."""
    size, out = f"--window-size={width},{height}", f"--screenshot={shot}"
    done = _chromium(size, out, page.as_uri(), dark=dark)
    assert shot.exists(), done.stderr[-2000:]
    return shot


def act(page: Path, script: str, width: int = 1200) -> Any:
    """What `script` (the body of an async function) returns after it acted on the page."""
    copy = page.with_name(f"acted-{page.name}")
    copy.write_text(page.read_text().replace("</body>", _ACT % script + "</body>"))
    done = _chromium(f"--window-size={width},900", "--dump-dom", copy.as_uri())
    copy.unlink()
    found = _RESULT.search(done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    from urllib.parse import unquote

    return json.loads(unquote(found.group(1)))
