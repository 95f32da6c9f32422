"""What a stage gets and gives: its specification, its inputs, its view of the recipe, its result."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, Field

from pelican.base.model import Frozen, Section, digest_of
from pelican.config import env
from pelican.config.recipe import Recipe, RewardConfig
from pelican.config.stages import STAGES
from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.versions import Reader, check_version, noted_files
from pelican.errors import UserInputError
from pelican.records import Phase
from pelican.storage import local_path, open_uri
from pelican.storage.manifests import Manifest
from pelican.storage.store import ObjectStore
from pelican.storage.verify import check_local, find_record

if TYPE_CHECKING:
    from pelican.rewards.judge import EndpointJudge

# Where a stage's inputs lie, and what tells one from a changed one.

CORRECTIONS = "corrections"  # an input beside `pool`
EARLIER = "earlier"  # inputs that the run made before this loop and phase: `earlier-01-sft`


def resolve_input(store: ObjectStore, where: str) -> Path:
    """The local path of an input, fetched if need be, its bytes checked.

    `where` is an s3:// URI, a prefix of the store, or a path of this machine.

    Raises:
        UserInputError: there is nothing, or a pool is not what was imported.
        DamagedError: a record says that other bytes were written there.
    """
    path = _find_input(store, where)
    if "://" not in where and not where.startswith("/") and store.exists(where):
        check_local(store, where, path)
    else:
        check_version(path)
    return path


def _find_input(store: ObjectStore, where: str) -> Path:
    """The local path of an input, whatever its bytes. Raises UserInputError if there is none."""
    if "://" in where:
        try:
            return local_path(where)
        except KeyError:
            raise UserInputError(f"there is nothing at {where}; check the recipe") from None
    if not where.startswith("/") and store.exists(where):
        return store.local(where)
    path = Path(where)
    if not path.exists():
        raise UserInputError(
            f"input {where!r} is neither in {store.uri} nor a path; check the recipe"
        )
    return path


def corrections_place(store: ObjectStore, recipe: Recipe) -> str | None:
    """Where the recipe's corrections lie: a key of the store if there is one, else a path."""
    where = recipe.data.corrections
    if not where:
        return None
    inside = "://" not in where and not where.startswith("/") and store.exists(where)
    return where if inside else env.resolve(where)


def input_digest(store: ObjectStore, where: str, read: Reader = noted_files) -> str:
    """`identify_input`'s digest."""
    return identify_input(store, where, read).digest


class InputIdentity(NamedTuple):
    """What tells an input from a changed one: by its content, and by where it comes from."""

    digest: str
    origin: str


def plain_input(digest: str) -> InputIdentity:
    """What comes from nowhere else: its content is all that it is known by."""
    return InputIdentity(digest, digest)


def identify_input(store: ObjectStore, where: str, read: Reader = noted_files) -> InputIdentity:
    """Digest of a stage's output (by its manifest), or of a plain file or folder (by content).

    `<prefix>/checkpoint`, a folder that a stage committed, has the digest that a plain copy of it
    has, but is read from the stage's manifest instead of hashed again. What an s3:// URI names
    counts by the endpoint's entity tags, so that nothing is downloaded to be compared. `read` says
    what stands for the files of this machine. The origin of a stage's output is what the stage was
    made from; a plain input's is its digest.

    Raises:
        UserInputError: there is nothing at `where`.
    """
    if "://" in where:
        outside, key = open_uri(where)
        tags = outside.tags(key)
        if not tags:
            raise UserInputError(f"there is nothing at {where}; check the recipe")
        digest = digest_of([[name.removeprefix(key), tags[name]] for name in sorted(tags)])
        return plain_input(digest)
    if not where.startswith("/"):
        recorded = find_record(store, where)
        if recorded is not None and recorded.manifest is not None and recorded.prefix == where:
            return InputIdentity(recorded.manifest.digest(), recorded.manifest.origin)
        if recorded is not None:
            files = {key.removeprefix(f"{where}/"): file for key, file in recorded.files.items()}
            digest = digest_of([[name, files[name].sha256] for name in sorted(files)])
            manifest, below = recorded.manifest, where.removeprefix(f"{recorded.prefix}/")
            origin = f"{manifest.origin}/{below}" if manifest is not None else digest
            return InputIdentity(digest, origin)
        if where.startswith("runs/"):
            raise UserInputError(
                f"input {where!r} is of a stage that has not finished; run it first"
            )
    return plain_input(path_digest(_find_input(store, where), read))


def path_digest(path: Path, read: Reader = noted_files) -> str:
    """Digest of a plain file or folder by its content, or by what `read` says stands for it."""
    found = read(path)
    return digest_of([[name, found[name]] for name in sorted(found)])


class Inputs(Mapping[str, Path]):
    """The inputs of a stage by name, as local paths; what lies elsewhere is fetched when asked for."""

    def __init__(
        self,
        places: Mapping[str, str],
        fetch: Callable[[str], Path] = Path,
        digest: Callable[[str], str] = lambda place: path_digest(Path(place)),
    ) -> None:
        """`places`: where the inputs lie; `fetch` and `digest` take such a place."""
        self._places, self._fetch, self._digest = places, fetch, digest

    @classmethod
    def in_store(cls, store: ObjectStore, places: Mapping[str, str]) -> Inputs:
        """Inputs whose places are those of a specification."""
        return cls(places, lambda at: resolve_input(store, at), lambda at: input_digest(store, at))

    def __getitem__(self, name: str) -> Path:
        return self._fetch(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # without fetching it

    def place(self, name: str) -> str:
        """Where an input lies, as the specification says it: for messages and records."""
        return self._places[name]

    def digest(self, name: str) -> str:
        """What tells an input from a changed one."""
        return self._digest(self._places[name])

    def earlier(self) -> list[Path]:
        """What the run made before this loop and phase, in that order; the recipe says whether any."""
        return [self[name] for name in sorted(self) if name.startswith(f"{EARLIER}-")]

    def corrections(self) -> Corrections:
        """A person's corrections of the input `pool`; none if the recipe names no file."""
        return read_corrections(self[CORRECTIONS]) if CORRECTIONS in self else NONE


# The processes of one job.


class Ranks:
    """The processes of one job; alone unless torchrun started several. Torch only if several."""

    def __init__(self) -> None:
        self.rank = env.rank()
        self.size = env.world_size()
        if self.size > 1:
            import torch
            import torch.distributed as dist

            if not dist.is_initialized():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                # A rank that fails is seen by torchrun; a slow one may take hours.
                dist.init_process_group(backend, timeout=timedelta(hours=24))

    def leave(self) -> None:
        """End the group, so that torch does not complain about it at exit."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


# The specification: a stage's name, its place in a run, its inputs and the recipe.


def check_stage(name: str) -> str:
    """`name`, if it is of a stage. Raises ValueError."""
    if name not in STAGES:
        raise ValueError(f"there is no stage {name!r}; there are {', '.join(STAGES)}")
    return name


StageName = Annotated[str, AfterValidator(check_stage)]


class StageSpec(Frozen):
    """All that a stage needs to know: `pelican stage NAME --spec FILE`.

    `inputs` maps a name to a prefix of the store (another stage's output) or to a path of data or
    a checkpoint; `output` is the prefix that the stage owns.
    """

    stage: StageName
    store: str = Field(description="URI of the store")
    run: str
    loop: int = Field(ge=0)
    phase: Phase
    output: str
    inputs: dict[str, str]
    recipe: Recipe

    @classmethod
    def of_finished(
        cls, store: ObjectStore, output: str, manifest: Manifest, recipe: Recipe
    ) -> StageSpec:
        """What would make the finished stage at `output` again, from the places that it was made from."""
        return cls(
            stage=manifest.stage,
            store=store.uri,
            run=manifest.run,
            loop=manifest.loop,
            phase=Phase(manifest.phase),
            output=output,
            inputs=manifest.inputs,
            recipe=recipe,
        )

    @property
    def rewards(self) -> RewardConfig:
        """How this stage scores."""
        return rewards_of(self.recipe, self.stage, self.phase)


def rewards_of(recipe: Recipe, stage: str, phase: Phase) -> RewardConfig:
    """How a stage scores. Flips are in what RL learns from, not in what is taught or measured.

    So SFT's weak set is mined from rewards as they are.
    """
    flips = stage == "train-rl" or (stage == "reward" and phase is Phase.RL)
    return recipe.reward if flips else recipe.reward.honest


# What a stage may read of the recipe: the fields that its row in the table names, and no other. So what
# it is known again by and what its code reads can't part.


class HiddenFieldError(RuntimeError):
    """A stage read a field of the recipe that its row does not name: a mistake in the code."""


# They would show all fields at once.
_WHOLE = frozenset({"as_parameter", "digest", "model_dump", "model_dump_json"})
Shown = TypeVar("Shown", bound=Section)


def stage_view(recipe: Recipe, stage: str, phase: Phase) -> Recipe:
    """The recipe as the code of a stage sees it; its `reward` is how the stage scores in this phase."""
    row = STAGES[stage]
    scored = recipe.model_copy(update={"reward": rewards_of(recipe, stage, phase)})
    return show(scored, (*row.results(recipe), *row.reads), row.name)


def whole_recipe(view: Recipe) -> Recipe:
    """The recipe behind a view, for a process that parses a whole one: a generation server."""
    return Recipe.model_validate(Recipe.model_dump(view))


def show(section: Shown, fields: Sequence[str], stage: str, above: str = "") -> Shown:
    """A section of which only `fields` (dotted names) can be read as attributes.

    Args:
        section: the whole recipe, or a section of it.
        fields: names below it, such as `data.max_pixels`.
        stage: who reads, for the message.
        above: the section's own name and a dot; empty for the recipe.
    """
    kind = type(section)
    below: dict[str, list[str]] = {}
    for name in fields:
        first, _, rest = name.partition(".")
        below.setdefault(first, []).append(rest)
    hidden = (kind.model_fields.keys() | _WHOLE) - below.keys()

    def read(view: Section, name: str) -> Any:
        if name in hidden:
            raise HiddenFieldError(
                f"the stage {stage} reads {above}{name} of the recipe, which its row in"
                " pelican/config/stages.py does not name: add it to `result`, or to `reads` if it"
                " can't change the result"
            )
        return object.__getattribute__(view, name)

    make_class: Any = type(kind)
    view = make_class(kind.__name__, (kind,), {"__getattribute__": read, "__module__": __name__})
    values = dict(section.__dict__)
    for name, parts in below.items():
        if "" not in parts:
            values[name] = show(values[name], parts, stage, f"{above}{name}.")
    made: Shown = view.model_construct()
    made.__dict__.update(values)
    return made


TOLD = "told"  # of a manifest's notes


@dataclass
class StageResult:
    """What the manifest of a finished stage says of it.

    In a job of several processes counts are summed over the ranks; metrics and notes are rank 0's.
    """

    counts: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def add_metric(self, name: str, value: float) -> None:
        """Record a number. Kubeflow refuses NaN, so only finite ones are kept."""
        if math.isfinite(value):
            self.metrics[name] = float(value)

    def tell(self, sentence: str) -> None:
        """Whoever follows the run reads the sentence when the stage has ended."""
        self.notes.setdefault(TOLD, []).append(sentence)

    def add_judge(self, judge: EndpointJudge | None) -> None:
        """Count what the judge was asked, and keep how far its votes agreed."""
        if judge is None:
            return
        self.counts.update(judge.tally.counts())
        if judge.tally.mean_agreement is not None:
            self.add_metric("judge_agreement", judge.tally.mean_agreement)
