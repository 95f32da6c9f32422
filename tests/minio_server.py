"""A real MinIO of this machine, for tests and benchmarks; its program must be on the PATH."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = "minio"
ABSENT = "there is no `minio` on the PATH: this needs a real S3 server"
_USER, _PASSWORD = "tests", "only-for-tests"
_START_S = 60


@dataclass
class Server:
    """MinIO on a port of this machine; it may be stopped and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)
    variables: dict[str, str] = field(default_factory=dict)
    certificates: Path | None = None  # a folder with public.crt and private.key: then over TLS

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Raises RuntimeError if it does not get ready."""
        address = f"127.0.0.1:{self.port}"
        command = [PROGRAM, "server", str(self.folder), "--address", address, "--quiet"]
        if self.certificates:
            command += ["--certs-dir", str(self.certificates)]
        self.process = subprocess.Popen(
            command,
            env={
                "PATH": str(Path(shutil.which(PROGRAM) or "").parent),
                "HOME": str(self.folder),
                "MINIO_ROOT_USER": _USER,
                "MINIO_ROOT_PASSWORD": _PASSWORD,
                "MINIO_BROWSER": "off",
                **self.variables,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        unverified = ssl._create_unverified_context()
        while True:
            try:
                ready = f"{self.endpoint}/minio/health/ready"
                urllib.request.urlopen(ready, timeout=2, context=unverified)
                return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise RuntimeError(f"MinIO at {address} did not start") from None
                time.sleep(0.1)

    def environment(self) -> dict[str, str]:
        """What a client of this server needs."""
        return {
            "AWS_ACCESS_KEY_ID": _USER,
            "AWS_SECRET_ACCESS_KEY": _PASSWORD,
            "S3_ENDPOINT_URL": self.endpoint,
        }

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
