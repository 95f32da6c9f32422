"""One look for new data; what is a whole batch is retrained on."""

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def poll(store: str, model: str, recipe: str, overrides: str, prefix: str, launcher: str) -> int:
    """One look for new data; what is a whole batch is retrained on. Returns how many objects are new."""
    from pelican.retrain.trigger.config import located, read_config
    from pelican.retrain.trigger.poll import keep_polling
    from pelican.retrain.trigger.worker import CommandSubmitter
    from pelican.storage import open_store

    given = {"model": model, "recipe": recipe, "overrides": overrides}
    given |= {"prefix": prefix, "launcher": launcher}
    config = located(read_config().model_copy(update=given), store)
    objects = open_store(store)
    return keep_polling(objects, config, CommandSubmitter(objects, config), once=True)
