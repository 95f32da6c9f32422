"""`pelican generation-server`: what a training of another pod draws its completions from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pelican import settings
from pelican.errors import UserInputError
from pelican.recipes import find_recipe


def serve_completions(
    address: str,
    overrides: list[str],
    checkpoint: str | None,
    folder: str | None,
    host: str,
    port: int,
) -> None:
    """Until the process is ended. The recipe is that of the training."""
    recipe = find_recipe(address, overrides)
    folder = folder or settings.generation_folder()
    if folder is None:
        raise UserInputError(
            f"give --folder, or set {settings.GENERATION_FOLDER}: where the training leaves weights"
        )
    from pelican.engines.server import ServerSpec, serve

    spec = ServerSpec(
        recipe=recipe,
        checkpoint=str(Path(checkpoint or settings.resolve(recipe.models.policy)).absolute()),
        folder=str(Path(folder).absolute()),
        host=host,
        port=port,
    )
    with suppress(KeyboardInterrupt):
        serve(spec)
