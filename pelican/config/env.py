"""Every environment variable that Pelican reads, and the functions that read them.

Settings of a machine or cluster come from the environment, never from a recipe: a recipe means the
same everywhere. `VARIABLES` is the one table; `docs/settings.md` is made from it, and `read` takes no
name that it lacks. The trigger's own settings are the fields of `TriggerConfig`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pelican.base.address import refuse_credentials
from pelican.base.endpoint import HOSTS, is_http
from pelican.base.pod import ERRORS
from pelican.base.process import OWNER, PARENT
from pelican.errors import UserInputError

IMAGE = "pelican-control:0.1.0"
ATTEMPT = "PELICAN_ATTEMPT"
ENV_PREFIXES = "PELICAN_ENV_PREFIXES"
BATCH_SIZE = "PELICAN_ROLLOUT_BATCH_SIZE"
GENERATION_FOLDER = "PELICAN_GENERATION_FOLDER"
GENERATION_SERVERS = "PELICAN_GENERATION_SERVERS"
IMAGE_CACHE_MB = "PELICAN_IMAGE_CACHE_MB"
LEASE_S = "PELICAN_LEASE_S"
METRICS_PORT = "PELICAN_METRICS_PORT"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
PUSHGATEWAY = "PELICAN_PUSHGATEWAY"
REUSE = "PELICAN_REUSE"
VIDEO_DECODER = "PELICAN_VIDEO_DECODER"
WARM = "PELICAN_WARM"
MOST_S = 86_400.0  # of a setting in seconds


@dataclass(frozen=True)
class Variable:
    """One row of the table.

    `default` is the value where the variable is unset or empty; `otherwise` says in words what
    happens then, where that is no fixed value. The value of a `secret` is never printed.
    """

    name: str
    use: str
    unit: str = ""
    default: str = ""
    otherwise: str = ""
    secret: bool = False


def _bound(name: str, use: str) -> tuple[Variable, Variable]:
    """A key of an endpoint, and the hosts that get it: a recipe names endpoints, not who is trusted."""
    hosts = f"Hosts (`host` or `host:port`) that get {name}; no other does."
    return (
        Variable(name, f"{use}; it is sent to the hosts of the next row alone.", secret=True),
        Variable(f"{name}{HOSTS}", hosts, "hosts with commas", otherwise="the key is not sent"),
    )


VARIABLES: dict[str, tuple[Variable, ...]] = {
    "Places": (
        Variable(
            "PELICAN_STORE",
            "The store of runs, pools and models.",
            "folder or s3://",
            "",
            "`.pelican/store`",
        ),
        Variable(
            "PELICAN_CACHE",
            "Downloads and other files that may be deleted.",
            "folder",
            "",
            "`.pelican/cache`",
        ),
        Variable(
            "PELICAN_HOME",
            "The folder that a recipe's relative paths start from.",
            "folder",
            otherwise="where Pelican lies",
        ),
        Variable(
            "PELICAN_COMMIT",
            "The commit of the code, for a model's card; images set it.",
            otherwise="what git says",
        ),
    ),
    "S3": (
        Variable("S3_ENDPOINT_URL", "The endpoint of the store.", "URL", otherwise="next row"),
        Variable("AWS_ENDPOINT_URL_S3", "The same, by AWS's name.", "URL", otherwise="next row"),
        Variable("AWS_ENDPOINT_URL", "The same, for all services.", "URL", otherwise="AWS"),
        Variable("AWS_REGION", "The region.", otherwise="next row"),
        Variable("AWS_DEFAULT_REGION", "The same.", otherwise="asked of the endpoint"),
        Variable("S3_CA_BUNDLE", "The CA that signed the endpoint.", "file", "", "next row"),
        Variable("AWS_CA_BUNDLE", "The same, by AWS's name.", "file", "", "certifi's CAs"),
        Variable(
            "S3_PATH_STYLE",
            "Whether the bucket stands in the path (`on`) or in the host's name (`off`).",
            "on, off, auto",
            "auto",
        ),
        Variable("S3_PATIENCE_S", "How long a request that fails is tried again.", "seconds", "90"),
        Variable(
            "S3_TAG_WORK",
            "Whether objects below `work/` get a tag, which `pelican store lifecycle` needs.",
            "on, off",
            "off",
        ),
        Variable("AWS_ACCESS_KEY_ID", "Credentials, with the next row.", secret=True),
        Variable("AWS_SECRET_ACCESS_KEY", "Credentials.", secret=True),
        Variable(
            "S3_CREDENTIALS_DIR",
            "A mounted Secret with the credentials, one file a key; it comes before the others.",
            "folder",
        ),
        Variable(
            "AWS_WEB_IDENTITY_TOKEN_FILE", "The token of a pod's identity, for a role.", "file"
        ),
    ),
    "Cluster": (
        Variable(
            "KUBECONFIG",
            "How to reach the cluster.",
            "file",
            otherwise="the pod's own account, or `~/.kube/config`",
        ),
        Variable("KUBERNETES_SERVICE_HOST", "Kubernetes sets it in every pod.", "host"),
        Variable(
            "PELICAN_NAMESPACE",
            "The namespace of the jobs.",
            otherwise="the pod's own, else `pelican`",
        ),
        Variable(
            "PELICAN_SERVICE_ACCOUNT", "The account of the jobs' pods.", default="pelican-stage"
        ),
        Variable(
            "PELICAN_S3_SECRET",
            "The name of the Secret with the store's credentials; the namespaces of the jobs and of"
            " Kubeflow's steps each have one.",
            default="pelican-s3",
        ),
        Variable(
            "PELICAN_S3_CA_SECRET",
            "The name of the Secret with the endpoint's `ca.crt`, in both namespaces.",
        ),
        Variable(
            ENV_PREFIXES,
            "Beginnings of further names that a recipe's `resources.<stage>.env` may set, by who"
            " submits.",
            "prefixes with commas",
            otherwise="libraries' and Pelican's, no secrets: `docs/cluster.md`",
        ),
        Variable(
            "PELICAN_PULL_SECRETS", "The names of the image pull secrets.", "names with commas"
        ),
        Variable(
            "PELICAN_IMAGE",
            "The image of reward, filter, and Kubeflow's steps.",
            "image",
            IMAGE,
        ),
        Variable(
            "PELICAN_TRAIN_IMAGE",
            "The image of training, and of rollout, distill and eval with transformers.",
            "image",
            "pelican-train:0.1.0",
        ),
        Variable(
            "PELICAN_ROLLOUT_IMAGE",
            "The image of rollout, distill and eval with vLLM.",
            "image",
            "pelican-rollout:0.1.0",
        ),
    ),
    "Kubeflow Pipelines": (
        Variable("KFP_HOST", "The address of the API; without it nothing is submitted.", "URL"),
        Variable("KFP_UI", "The address of the UI, for links.", "URL", "", "KFP_HOST"),
        Variable(
            "KFP_TOKEN_FILE",
            "A file with the bearer token; it is read again for every request.",
            "file",
            otherwise="the pod's mounted token",
        ),
        Variable("KFP_TOKEN", "The bearer token, where there is no file.", secret=True),
        Variable("KFP_NAMESPACE", "The profile of the run."),
        Variable("KFP_SERVICE_ACCOUNT", "The account of the run."),
        Variable("KFP_CA_BUNDLE", "The CA that signed the API.", "file", "", "certifi's CAs"),
    ),
    "Running": (
        Variable(
            REUSE,
            "Whether a stage that another run has finished is taken over.",
            "on, off",
            "off",
            "`off`, and `on` for `pelican submit` of a set",
        ),
        Variable(
            WARM,
            "`off`: every local stage starts a Python of its own. A run's launcher sets it to the"
            " socket of its warm process.",
            "off or socket",
        ),
        Variable(
            GENERATION_SERVERS,
            "The servers from which a training draws its completions.",
            "URLs with commas",
            otherwise="it starts its own",
        ),
        Variable(
            GENERATION_FOLDER,
            "Where a training leaves weights for these servers; all have it mounted.",
            "folder",
        ),
        Variable(
            BATCH_SIZE,
            "At most so many completions are decoded together; a launcher sets it after memory ran"
            " out.",
            "completions",
            otherwise="the recipe's",
        ),
        Variable(
            IMAGE_CACHE_MB,
            "How much of encoded images a training process keeps.",
            "MB",
            otherwise="2 GiB",
        ),
        Variable(
            LEASE_S,
            "After so long without a sign of life a replica's work is taken over.",
            "seconds above 0",
            "60",
        ),
        Variable(VIDEO_DECODER, "What decodes videos.", "pyav, torchcodec", "pyav"),
    ),
    "Metrics": (
        Variable(METRICS_PORT, "Where a long stage serves its series.", "port or host:port"),
        Variable(PUSHGATEWAY, "Where a stage pushes its results at its end.", "URL"),
        Variable(
            METRICS_FOLDER,
            "Where the processes of a pod keep the values that one of them serves.",
            "folder",
            otherwise="a temporary folder",
        ),
    ),
    "Endpoints and notices": (
        *_bound("PELICAN_TEACHER_API_KEY", "Bearer token of `distill.endpoint`"),
        *_bound("PELICAN_JUDGE_KEY", "Bearer token of the judge's endpoint"),
        *_bound("PELICAN_POLICY_API_KEY", "Bearer token of a served model that benchmarks ask"),
        Variable(
            "PELICAN_NOTIFY_URL",
            "Where a retraining's end is posted; some receivers know senders by it alone.",
            "URL",
            secret=True,
        ),
        Variable("PELICAN_NOTIFY_SECRET", "Key that signs these posts.", secret=True),
        Variable(
            "PELICAN_NOTIFY_LINK",
            "The link in them; `{run}` becomes the run's name.",
            "URL",
            otherwise="the report's place in the store",
        ),
    ),
    "Set by launchers, not by you": (
        Variable("PELICAN_LAUNCHER", "What runs the jobs of a compiled pipeline.", "", "process"),
        Variable(ATTEMPT, "Names the processes that one launcher started together."),
        Variable(PARENT, "The launcher: its stage ends with it.", "pid"),
        Variable(OWNER, "The process that owns the run: launchers end with it.", "pid:start"),
        Variable(ERRORS, "Where every rank of a pod notes why it failed.", "folder"),
        Variable("KFP_RUN_ID", "Kubeflow's run that a step belongs to."),
        Variable(
            "PET_NNODES",
            "Pods of a job, of an elastic one fewest:most; the training operator sets it.",
            "number, or fewest:most",
            "1",
        ),
        Variable("RANK", "Number of this process in its job; torchrun sets it.", "number", "0"),
        Variable("WORLD_SIZE", "Processes of the job; torchrun sets it.", "number", "1"),
        Variable("LOCAL_RANK", "Number of this process on its machine.", "number", "0"),
        Variable(
            "LOCAL_WORLD_SIZE", "Processes on this machine.", "number", otherwise="WORLD_SIZE"
        ),
        Variable("MASTER_PORT", "Where the processes of a job meet.", "port"),
        Variable("TORCHELASTIC_RUN_ID", "Name of torchrun's group."),
        Variable("PYTHONPATH", "Handed on to what Pelican starts, behind PELICAN_HOME."),
    ),
}
_ROWS = {row.name: row for rows in VARIABLES.values() for row in rows}


# What a value has to be, by the row's unit: without a row here it may be anything.
_NUMBER = re.compile(r"\d+")
_TAKES: dict[str, tuple[Callable[[str], object], str]] = {
    "seconds": (
        lambda text: 0 <= float(text) <= MOST_S,
        f"a number of seconds up to {MOST_S:,.0f}",
    ),
    "seconds above 0": (
        lambda text: 0 < float(text) <= MOST_S,
        f"a number of seconds above 0, up to {MOST_S:,.0f}",
    ),
    "number": (_NUMBER.fullmatch, "a whole number"),
    "number, or fewest:most": (
        re.compile(r"\d+(:\d+)?").fullmatch,
        "a whole number, or two with a colon between them",
    ),
    "MB": (_NUMBER.fullmatch, "a whole number of MB"),
    "completions": (_NUMBER.fullmatch, "a whole number of completions"),
    "pid": (_NUMBER.fullmatch, "a process's number"),
    "on, off": (lambda text: text in ("on", "off"), "on or off"),
    "on, off, auto": (lambda text: text in ("on", "off", "auto"), "on, off or auto"),
    "pyav, torchcodec": (lambda text: text in ("pyav", "torchcodec"), "pyav or torchcodec"),
    "port": (lambda text: 0 <= int(text) < 1 << 16, "a port"),
    "port or host:port": (
        lambda text: 0 <= int(text.rpartition(":")[2]) < 1 << 16,
        "a port, or host:port",
    ),
    "URL": (is_http, "an http(s) URL"),
    "URLs with commas": (
        lambda text: all(is_http(t.strip()) for t in text.split(",") if t.strip()),
        "http(s) URLs with commas between them",
    ),
}


def check() -> None:
    """Whether every variable that is set holds what its row takes; asked before work begins.

    Raises:
        UserInputError: one does not.
    """
    for row in _ROWS.values():
        value = os.environ.get(row.name)
        if not value or row.unit not in _TAKES:
            continue
        fits, takes = _TAKES[row.unit]
        try:
            good = bool(fits(value))
        except ValueError:
            good = False
        if not good:
            shown = (
                "" if row.unit.startswith("URL") else f"={value!r}"
            )  # an address may be a secret
            raise UserInputError(f"{row.name}{shown} does not fit: it takes {takes}")


def read(name: str) -> str:
    """The variable's value, else the default of its row; empty for neither."""
    row = _ROWS[name]
    return os.environ.get(name) or row.default


def is_set(name: str) -> bool:
    """Whether the variable is there, be it empty."""
    return _ROWS[name].name in os.environ


def read_address(name: str) -> str:
    """As `read`, for an address that goes into specifications, records or links.

    Raises:
        UserInputError: it holds a user or password.
    """
    address = read(name)
    refuse_credentials(address, name, "a proxy of yours may add them")
    return address


def is_secret(name: str) -> bool:
    """Whether the table has this name as a secret."""
    return name in _ROWS and _ROWS[name].secret


def read_all() -> dict[str, str]:
    """A copy of the whole environment, to hand on to a process."""
    return dict(os.environ)


def write(name: str, value: str) -> None:
    """Set a variable of the table for this process and those that it starts."""
    os.environ[_ROWS[name].name] = value


def set_default(name: str, value: str) -> None:
    """Set a variable, Pelican's or a library's, unless it is set."""
    os.environ.setdefault(name, value)


@contextmanager
def changed(values: Mapping[str, str]) -> Iterator[None]:
    """These variables for what reads them, or is started, meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Places: the repository, the store, the cache.


def home() -> Path:
    """The repository's root: PELICAN_HOME, else where this package lies."""
    return Path(read("PELICAN_HOME") or Path(__file__).parents[2]).absolute()


def store_uri(given: str | None = None) -> str:
    """The store: `given`, else PELICAN_STORE, else `.pelican/store`; no credentials in its address."""
    uri = given or read("PELICAN_STORE") or str(home() / ".pelican" / "store")
    refuse_credentials(uri, "the store's address", "set AWS_ACCESS_KEY_ID and the other variables")
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def cache() -> Path:
    """The folder of what is computed again if deleted: PELICAN_CACHE, else `.pelican/cache`."""
    return Path(read("PELICAN_CACHE") or home() / ".pelican" / "cache").absolute()


def resolve(where: str) -> str:
    """A path or URI of a recipe; relative paths are below the repository's root."""
    if "://" in where or Path(where).is_absolute():
        return where
    return str(home() / where)


def python_path() -> str:
    """PYTHONPATH for a process that shall import this Pelican, wherever it is started."""
    return os.pathsep.join(filter(None, [str(home()), read("PYTHONPATH")]))


# Running: what a launcher or a user says to a stage, beside its recipe.


def image() -> str:
    """Base image of the pipeline's components: PELICAN_IMAGE when compiling."""
    return read("PELICAN_IMAGE")


def batch_size(of_recipe: int) -> int:
    """Completions decoded together: the recipe's, or fewer, as a launcher says if memory ran out.

    It is no part of a stage's fingerprint, because a completion does not depend on its batch.
    """
    given = read(BATCH_SIZE)
    return min(of_recipe, max(1, int(given))) if given.isdecimal() else of_recipe


def image_cache_bytes(otherwise: int) -> int:
    """Encoded images that a training process keeps: PELICAN_IMAGE_CACHE_MB, else `otherwise`."""
    given = read(IMAGE_CACHE_MB)
    return int(given) * 10**6 if given.isdecimal() else otherwise


def launcher_name() -> str:
    """Who runs the jobs: PELICAN_LAUNCHER."""
    return read("PELICAN_LAUNCHER")


def attempt() -> str:
    """Names the processes that one launcher started together; empty where pods come and go."""
    return read(ATTEMPT)


def lease_s() -> float:
    """Seconds without a sign of life after which a replica's work is taken over."""
    return float(read(LEASE_S))


def reuse() -> bool:
    """Whether a stage that another run has finished is taken over: PELICAN_REUSE=on."""
    return read(REUSE) == "on"


def generation_servers() -> tuple[str, ...]:
    """URLs of the servers that a training draws its completions from; empty: it starts its own."""
    given = read(GENERATION_SERVERS)
    return tuple(url.strip() for url in given.split(",") if url.strip())


def generation_folder() -> str | None:
    """Where a training leaves weights for these servers: a folder that all have mounted."""
    return read(GENERATION_FOLDER) or None


# The processes of a job, as torchrun or the local launcher numbers them; one alone has no number.


def rank() -> int:
    """This process's number in its job."""
    return int(read("RANK"))


def world_size() -> int:
    """Processes of the job."""
    return int(read("WORLD_SIZE"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(read("LOCAL_RANK"))


def local_world_size() -> int:
    """Processes of the job on this machine."""
    return int(read("LOCAL_WORLD_SIZE") or read("WORLD_SIZE"))
