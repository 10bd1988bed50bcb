"""Names of our own on a class that applications derive from, and may use for their own.

slixmpp-omemo's class has few. What an application has put into its subclass of that, ours would
overwrite, or call; neither would say so.
"""

from abc import ABCMeta
from itertools import takewhile
from typing import Any, Final

import slixmpp_omemo

from eph_e2ee.errors import LocalProtocolError

__all__ = ["Named", "TakenName", "initial_values"]

TAKEN: Final = (
    "{} uses names that XEP_0384 of eph_e2ee has for itself, and that of slixmpp-omemo has not. "
    "Choose others for: {}"
)

PACKAGE: Final = __name__.partition(".")[0]


class TakenName(LocalProtocolError, TypeError):
    """A subclass uses a name of ours; the text says which."""


class Named(ABCMeta):
    """Looks at each plugin as soon as it is made, with all that its application's class has set.

    The plugin's own `__init__` ends with `initial_values`, which it keeps under that name.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a plugin.

        Raises:
            TakenName: see above.
        """
        plugin = super().__call__(*args, **kwargs)
        taken = _taken_by_class(plugin) | _taken_by_object(plugin)
        if taken:
            raise TakenName(TAKEN.format(cls.__name__, ", ".join(sorted(taken))))
        return plugin


def initial_values(plugin: object) -> dict[str, object]:
    """The attributes that our classes have given to a plugin, and slixmpp-omemo's has not."""
    theirs = ("xmpp", "api", "config")
    return {
        name: value
        for name, value in vars(plugin).items()
        if name not in theirs and not name.startswith("_XEP_0384__")
    }


def _taken_by_class(plugin: Any) -> set[str]:
    """Names of ours that a class uses which the application puts before ours."""
    theirs = takewhile(lambda kind: not _is_ours(kind), type(plugin).__mro__)
    ours = _defined(plugin) | plugin.initial_values.keys()
    return {name for kind in theirs for name in vars(kind) if name in ours}


def _taken_by_object(plugin: Any) -> set[str]:
    """Names of ours that it has set on the plugin itself."""
    own, values = set(vars(plugin)), dict[str, object](plugin.initial_values)
    replaced = {name for name in values if vars(plugin).get(name) is not values[name]}
    return replaced | (_defined(plugin) & own)


def _defined(plugin: object) -> set[str]:
    """What our classes define, and slixmpp-omemo's does not."""
    ours = {name for kind in type(plugin).__mro__ if _is_ours(kind) for name in vars(kind)}
    return {name for name in ours - {*dir(slixmpp_omemo.XEP_0384)} if not name.startswith("__")}


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == PACKAGE
