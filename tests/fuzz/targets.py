"""Everything that a peer or a server can send, by name: what makes an input, and what takes it.

An input is material: bytes that say by themselves what is sent, and that a case keeps. `Target.run`
raises `Found` for whatever must not happen. A surface is added as one more function in `pure` or in
`staged`; the cases, the quick run and the campaign find it here.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzz.adopting import Adopted
from tests.fuzz.census import Census
from tests.fuzz.pure import PURE
from tests.fuzz.scene import Scene, Wary
from tests.fuzz.staged import STAGED
from tests.fuzz.trees import read
from tests.fuzz.watching import Found, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.source import Source

__all__ = ["NAMES", "Stage", "Target", "target"]

LIFE: Final = 2000
"""Cases that one scene lives through; then all begins anew, and what is left is left over."""

PROBING: Final = 50
"""Cases after which it is looked whether somebody else's messages still arrive."""

NAMES: Final = (*PURE, *STAGED)
"""Of all targets."""


SCENES: Final[dict[str, type[Scene]]] = {"wary": Wary, "adopted": Adopted}
"""By the name that a case gives; any other name, or none, is the usual one's."""


@dataclass
class Target:
    """One surface.

    Attributes:
        name: what it is called.
        draw: makes material of choices.
        take: has the code deal with material.
        watch: what has been heard meanwhile.
    """

    name: str
    draw: Callable[[Source], bytes]
    take: Callable[[bytes], None]
    watch: Watch = field(default_factory=Watch)
    stage: Stage | None = None

    def run(self, material: bytes) -> None:
        """Deal with one input.

        Raises:
            Found: it led to something that must not happen.
        """
        with self.watch.watching():
            self.take(material)

    def rest(self) -> None:
        """End what it has running; the next input begins anew."""
        if self.stage is not None:
            self.stage.close()


class Stage:
    """Scenes, one after the other of each kind, in folders in memory where there are such.

    Attributes:
        watch: what has been heard meanwhile.
        census: how much their chats have held.
        rejections: how often something was rejected.
        messages: how many messages applications have seen.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._scenes: dict[str, tuple[Scene, tempfile.TemporaryDirectory[str]]] = {}
        self._played: Counter[str] = Counter()
        self.census = Census()
        self.rejections = self.messages = 0

    def play(self, material: bytes) -> None:
        """Play a case, and now and then look whether the scene still lives."""
        case = read(material)
        kind = case.get("scene", "")
        if self._played[kind] >= LIFE:
            self._end(kind)
        scene = self._scene(kind)
        self._played[kind] += 1
        try:
            scene.play(case)
            if self._played[kind] % PROBING == 0:
                self._probe(scene)
        except Found:
            self._played[kind] = LIFE  # who knows what is left of it
            raise

    def probe(self) -> None:
        """Look whether somebody else's messages still arrive, in every scene that was played.

        Raises:
            Found: they do not.
        """
        self._scene("")
        for scene, _ in list(self._scenes.values()):
            self._probe(scene)

    def close(self) -> None:
        """End the scenes."""
        for kind in list(self._scenes):
            self._end(kind)

    def _probe(self, scene: Scene) -> None:
        scene.probe()
        self.census.take(scene.held)

    def _end(self, kind: str) -> None:
        del self._played[kind]
        if kind not in self._scenes:
            return
        scene, folder = self._scenes.pop(kind)
        self.rejections += scene.rejections
        self.messages += scene.messages
        scene.close()
        folder.cleanup()

    def _scene(self, kind: str) -> Scene:
        if kind not in self._scenes:
            memory = Path("/dev/shm")  # noqa: S108 -- a folder of its own is made in it
            folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
            with self.watch.preparing():
                made = SCENES.get(kind, Scene)(Path(folder.name) / "vault", self.watch)
            self._scenes[kind] = made, folder
        return self._scenes[kind][0]


def target(name: str, stage: Stage | None = None) -> Target:
    """The target of that name; with `stage`, on one that several share."""
    if name in PURE:
        return Target(name, *PURE[name])
    watch = Watch() if stage is None else stage.watch
    stage = Stage(watch) if stage is None else stage
    return Target(name, STAGED[name], stage.play, watch, stage)
