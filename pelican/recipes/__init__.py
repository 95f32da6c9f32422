"""Named recipes, addressed as `tiny`, `tiny+rl_only`, `tiny+threshold(0.5)`; and overrides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from pelican.errors import UserInputError
from pelican.recipe import Recipe
from pelican.recipes import ablations, paper, tiny
from pelican.recipes.overrides import apply_overrides, nearest, parse_overrides, sentence
from pelican.recipes.pipelines import PIPELINES, SETS, for_pipeline

BASES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny.tiny,
    "pelican_7b": paper.pelican_7b,
    "pelican_72b": paper.pelican_72b,
}
VARIANTS_OF_RL: dict[str, Callable[[Recipe], Recipe]] = {
    "asymmetric_clipping": ablations.asymmetric_clipping,
    "symmetric_clipping": ablations.symmetric_clipping,
    "down_sampling": ablations.down_sampling,
    "perception_loss": ablations.perception_loss,
    "hints": ablations.hints,
}
ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "random_sampling": ablations.random_sampling,
    "rl_only": ablations.rl_only,
    "sft_only": ablations.sft_only,
    "one_loop": ablations.one_loop,
    "weak_teacher": ablations.weak_teacher,
    "replay_only": ablations.replay_only,
    **VARIANTS_OF_RL,
}
ABLATIONS_OF_A_NUMBER: dict[str, Callable[[Recipe, float], Recipe]] = {
    "threshold": ablations.threshold,
    "noisy_reward": ablations.noisy_reward,
}
_PART = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?")


def find_recipe(address: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at an address such as `tiny+threshold(0.5)`, with `loops=2 rl.max_steps=50`."""
    base, *changes = address.replace(" ", "").split("+")
    if base not in BASES:
        raise UserInputError(f"there is no recipe {base!r}{nearest(base, BASES)}")
    recipe = BASES[base]()
    for part in changes:
        try:
            recipe = _ablated(recipe, part)
        except ValidationError as error:
            raise UserInputError(f"{address}: {sentence(error, {})}") from None
    return apply_overrides(recipe, parse_overrides(overrides))


def _ablated(recipe: Recipe, part: str) -> Recipe:
    match = _PART.fullmatch(part)
    name, argument = match.groups() if match else (part, None)
    if name in ABLATIONS:
        if argument is not None:
            raise UserInputError(
                f"the ablation {name!r} takes no number, but {argument!r} was given"
            )
        return ABLATIONS[name](recipe)
    if name in ABLATIONS_OF_A_NUMBER:
        try:
            value = float(argument or "")
        except ValueError:
            message = f"the ablation {name!r} needs a number, for example {name}(0.5), not {part!r}"
            raise UserInputError(message) from None
        if not 0 <= value <= 1:
            raise UserInputError(f"{name}({argument}) is outside 0 to 1")
        return ABLATIONS_OF_A_NUMBER[name](recipe, value)
    known = [*ABLATIONS, *ABLATIONS_OF_A_NUMBER]
    raise UserInputError(f"there is no ablation {name!r}{nearest(name, known)}")


__all__ = [
    "ABLATIONS",
    "ABLATIONS_OF_A_NUMBER",
    "BASES",
    "PIPELINES",
    "SETS",
    "VARIANTS_OF_RL",
    "find_recipe",
    "for_pipeline",
]
