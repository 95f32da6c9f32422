"""`pelican generation-server`: what a training of another pod draws its completions from."""

from __future__ import annotations

from pathlib import Path

from pelican import settings
from pelican.errors import UserInputError
from pelican.recipes import find_recipe


def serve_completions(
    address: str, overrides: list[str], checkpoint: str | None, host: str, port: int
) -> None:
    """Until the process is ended. Weights are read below the recipe's `rl.generation.folder`."""
    recipe = find_recipe(address, overrides)
    folder = recipe.rl.generation.folder
    if recipe.rl.generation.where != "server" or folder is None:
        raise UserInputError(
            "set rl.generation.where=server and rl.generation.folder, as in the training's recipe"
        )
    from pelican.engines.server import ServerSpec, serve

    serve(
        ServerSpec(
            recipe=recipe,
            checkpoint=str(Path(checkpoint or settings.resolve(recipe.models.policy)).absolute()),
            folder=str(Path(folder).absolute()),
            host=host,
            port=port,
        )
    )
