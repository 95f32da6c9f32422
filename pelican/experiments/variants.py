"""What is compared: variants of `tiny`, with the budgets at which they are compared.

Sources of the ideas, and what each is measured by: `docs/experiments.md`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pelican.recipes.overrides import parse_overrides

BASE = "tiny"  # the budgets are chosen for it
TAG = "results"  # what the runs' names begin with


@dataclass(frozen=True)
class Variant:
    """A recipe, what is changed in it, and how a table names it."""

    recipe: str
    overrides: str
    meaning: str

    def settings(self, seed: int, more: str = "") -> str:
        """The overrides of one run; `more` has the last word."""
        given = parse_overrides([more])
        mine = parse_overrides([self.overrides])
        kept = [f"{name}={value}" for name, value in mine.items() if name not in given]
        return " ".join([*kept, f"seed={seed}", *filter(None, [more])])


# DPPO against its controls: about as much compute in each as the table counts it: without prompts.
CONTROLS: dict[str, Variant] = {
    "dppo": Variant("tiny", "", "RL and SFT in turn, three loops"),
    "rl_only": Variant("tiny+rl_only", "rl.max_steps=72", "RL phases alone, longer"),
    "sft_only": Variant("tiny+sft_only", "sft.epochs=4", "SFT phases alone, longer"),
    "one_loop": Variant("tiny+one_loop", "", "one RL and one SFT phase of three times the length"),
    "random_sampling": Variant("tiny+random_sampling", "", "RL on random samples"),
    "replay_only": Variant("tiny+replay_only", "sft.epochs=15", "SFT on general replay alone"),
}

# In the 24 steps of `tiny` stagnation hardly comes to 0.5, in 72 to 0.65: `docs/experiments.md`.
_LONG = "rl.max_steps=72"

ABLATIONS: dict[str, Variant] = {
    **CONTROLS,
    "weak_teacher": Variant("tiny+weak_teacher", "", "the base as its own teacher"),
    **{
        f"threshold_{value}".replace(".", "_"): Variant(
            f"tiny+threshold({value})",
            _LONG,
            f"RL of up to 72 steps ends at a stagnation of {value}",
        )
        for value in ("0.4", "0.5", "0.6", "0.9")
    },
    **{
        f"noisy_reward_{value}".replace(".", "_"): Variant(
            f"tiny+noisy_reward({value})", "", f"{float(value):.0%} of RL's rewards flipped"
        )
        for value in ("0.1", "0.25", "0.5")
    },
    "asymmetric_clipping": Variant(
        "tiny+asymmetric_clipping", "", "two updates a batch, clipped at 0.8 and 1.28"
    ),
    "symmetric_clipping": Variant(
        "tiny+symmetric_clipping", "", "two updates a batch, clipped at 0.8 and 1.2"
    ),
    "down_sampling": Variant(
        "tiny+down_sampling", "", "of each group the four of eight with most variance trained on"
    ),
    "perception_loss": Variant(
        "tiny+perception_loss", "", "PAPO's perception loss and double entropy"
    ),
    "hints": Variant("tiny+hints", "", "groups that all fail drawn again with a hint"),
}


def run_name(variant: str, seed: int, tag: str) -> str:
    """Such as `results-dppo-s0`."""
    return f"{tag}-{variant.replace('_', '-')}-s{seed}"


def make_command(variant: Variant, name: str, seed: int, more: str) -> str:
    """What a person types for one run."""
    return submit_command(variant.recipe, variant.settings(seed, more), name)


def submit_command(address: str, overrides: str, name: str) -> str:
    """The same of any recipe's address and overrides."""
    return f"make submit RECIPE={shlex.quote(address)} SET={shlex.quote(overrides)} RUN={name}"
