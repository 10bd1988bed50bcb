"""slixmpp's registry of plugins: one for all clients of a process, by the names of plugins."""

from collections.abc import Iterator
from contextlib import contextmanager

from slixmpp.plugins.base import PLUGIN_REGISTRY, BasePlugin, register_plugin

__all__ = ["registered"]


@contextmanager
def registered(*plugins: type[BasePlugin]) -> Iterator[None]:
    """Have slixmpp make plugins of these classes; afterwards of those that were registered before.

    An application may have registered a class of its own, for another client of its process.
    """
    before = {plugin.name: PLUGIN_REGISTRY.get(plugin.name) for plugin in plugins}
    for plugin in plugins:
        register_plugin(plugin)
    try:
        yield
    finally:
        for name, other in before.items():
            if other is None:
                PLUGIN_REGISTRY.pop(name, None)
            else:
                PLUGIN_REGISTRY[name] = other
