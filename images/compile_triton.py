"""Compile what Triton compiles at its first kernel; the image's build ends here if it can't.

Loading it needs a GPU's driver, which a build has not, so only the compiler is tried: without one a
training would end at its first loss.
"""

import tempfile
from pathlib import Path

import triton.backends.nvidia
from triton.runtime.build import _build

backend = Path(triton.backends.nvidia.__file__).parent
with tempfile.TemporaryDirectory() as folder:
    made = _build(
        "cuda_utils", str(backend / "driver.c"), folder, [], [str(backend / "include")], [], []
    )
    print(f"Triton's launcher: {Path(made).stat().st_size} bytes")
