"""What a recipe may not hold, because it is kept, shown and handed to Kubernetes: credentials.

Checked where a recipe comes from a person (a submission, the preflight of a pipeline) and not where one
is read again: what was stored before the check stays readable.
"""

from __future__ import annotations

import json
import re

from pelican.base.address import refuse_credentials
from pelican.config import env
from pelican.config.overrides import fields
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError

# Names that `resources.<stage>.env` takes begin like this: libraries, and Pelican. A list of what is
# known, and not of what looks dangerous, because DATABASE_URL or LD_PRELOAD look like nothing.
PREFIXES = (
    *("NCCL_", "UCX_", "GLOO_", "FI_", "IBV_", "RDMAV_", "OMPI_"),
    *("CUDA_", "NVIDIA_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "DS_", "ACCELERATE_", "VLLM_"),
    *("HF_", "TRANSFORMERS_", "TOKENIZERS_", "POLARS_", "OMP_", "MKL_", "KMP_", "OPENBLAS_"),
    *("MALLOC_", "PELICAN_"),
)
# Of those, too, some are about credentials; PELICAN_…_KEY_HOSTS binds one.
_SECRET = re.compile(
    r"SECRET|PASS(WORD|WD|PHRASE)?(_|$)|TOKEN(?!IZ)|CREDENTIAL|APIKEY|(^|_)(KEY|PAT|PWD)(_|$)",
    re.IGNORECASE,
)


def check_recipe(recipe: Recipe) -> Recipe:
    """`recipe`, if no address in it holds credentials and its variables are of the known kinds.

    Raises:
        UserInputError: the field, or the variable; never the value.
    """
    for field, value in fields(recipe).items():
        for word in re.split(r'[\s",]+', json.dumps(value, default=str, ensure_ascii=False)):
            refuse_credentials(word, field, "put them into the Secret of the store")
        if field.startswith("resources.") and field.endswith(".env"):
            for name in value or {}:
                _check_variable(field, name)
    return recipe


def _check_variable(field: str, name: str) -> None:
    if _SECRET.search(name) or env.is_secret(name):
        raise UserInputError(
            f"{field}: the variable {name} looks like a secret; recipes are kept and shown,"
            " so put it into the Secret of the store"
        )
    more = tuple(p.strip() for p in env.read(env.ENV_PREFIXES).split(",") if p.strip())
    if not name.startswith(PREFIXES + more):
        raise UserInputError(
            f"{field}: a recipe does not set {name}, only names that begin with"
            f" {', '.join(PREFIXES)}; who submits may allow others with {env.ENV_PREFIXES}"
        )
