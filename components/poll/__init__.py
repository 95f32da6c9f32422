"""One look for new data; what is a whole batch is retrained on."""

from kfp import dsl

from pelican.settings import image


@dsl.component(base_image=image(), install_kfp_package=False)
def poll(store: str, model: str, recipe: str, overrides: str, prefix: str, launcher: str) -> int:
    """One look for new data; what is a whole batch is retrained on. Returns how many objects are new."""
    from pelican.storage.objects import open_store
    from pelican.trigger.config import read_config
    from pelican.trigger.places import located
    from pelican.trigger.poll import keep_polling
    from pelican.trigger.submitter import CommandSubmitter

    given = {"model": model, "recipe": recipe, "overrides": overrides}
    given |= {"prefix": prefix, "launcher": launcher}
    config = located(read_config().model_copy(update=given), store)
    objects = open_store(store)
    return keep_polling(objects, config, CommandSubmitter(objects, config), once=True)
