"""A client of ours in a process of its own, whose memory another process looks into.

It does what one line of JSON on its standard input says, and answers with one line. It keeps none
of the messages; dead keys it writes to a file as they come by, and keeps none of these either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from doubleratchet.kdf_chain import KDFChain
from twomemo.twomemo import AEADImpl, PlainKeyMaterialImpl

import eph_e2ee
from eph_e2ee.vault import archive, keyfile, keytree, paths, primitives
from tests.support.client import Happenings, connect, disconnect, new_client
from tests.support.clock import ManualClock, ManualSource
from tests.support.prosody import HOST, PASSWORD, Account

if TYPE_CHECKING:
    from eph_e2ee import Message
    from eph_e2ee.vault.primitives import Secret

__all__ = ["KEY_KINDS", "RECORD_SIZE"]

KEY_SIZE: Final = 32
RECORD_SIZE: Final = 1 + KEY_SIZE
"""Bytes of a record: the kind of key, and the key."""

KEY_KINDS: Final = ("content", "leaf", "node", "root", "chain", "next chain", "message", "payload")
"""Of a message's content; of its place in the key tree, and what that is derived from; of a
generation of the key file; a ratchet's, from which those of all later messages come, and the one
that takes its place; OMEMO's for one message's key element, and for its payload."""

SECONDS: Final = 60.0
"""The limit of one wait for the next thing to happen; on loopback it takes milliseconds."""


class Recorder:
    """Writes keys to a file as they come by. The file is the system's, not this process's memory.

    Attributes:
        leaves: whose keys the records of kind `leaf` are, in their order.
    """

    def __init__(self, path: Path) -> None:
        self.leaves: list[paths.Leaf] = []
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        for name in ("random_bytes", "random_key"):
            if hasattr(archive, name):
                self._listen("content", archive, name)
        self._listen("root", keyfile, "random_key")
        self._listen_to_the_tree()
        self._listen_to_omemo()

    def _write(self, kind: str, key: bytes | bytearray | Secret) -> None:
        exposed = key if isinstance(key, bytes | bytearray) else key.expose()
        if len(exposed) == KEY_SIZE and any(exposed):
            os.writev(self._file, [bytes((KEY_KINDS.index(kind),)), exposed])

    def _listen(self, kind: str, module: object, name: str) -> None:
        """Record what a function returns."""
        original = getattr(module, name)

        def listening(*arguments: Any) -> Any:
            key = original(*arguments)
            self._write(kind, key)
            return key

        setattr(module, name, listening)

    def _listen_to_the_tree(self) -> None:
        derive, wipe = keytree.KeyTree.derive, primitives.wipe

        def deriving(tree: keytree.KeyTree, leaf: paths.Leaf) -> Any:
            key = derive(tree, leaf)
            self.leaves.append(leaf)
            self._write("leaf", key)
            return key

        def wiping(buffer: bytearray) -> None:
            self._write("node", buffer)
            wipe(buffer)

        setattr(keytree.KeyTree, "derive", deriving)  # noqa: B010  mypy holds methods fixed
        setattr(keytree, "wipe", wiping)  # noqa: B010  the same

    def _listen_to_omemo(self) -> None:
        methods, step = vars(AEADImpl), KDFChain.step
        encrypt, decrypt = methods["encrypt"].__func__, methods["decrypt"].__func__
        make = PlainKeyMaterialImpl.__init__

        async def stepping(chain: KDFChain, data: bytes, length: int) -> bytes:
            self._write("chain", chain.model.key)
            output = await step(chain, data, length)
            self._write("next chain", chain.model.key)
            return output

        async def encrypting(cls: type, text: bytes, key: bytes, associated: bytes) -> bytes:
            self._write("message", key)
            sealed: bytes = await encrypt(cls, text, key, associated)
            return sealed

        async def decrypting(cls: type, text: bytes, key: bytes, associated: bytes) -> bytes:
            self._write("message", key)
            opened: bytes = await decrypt(cls, text, key, associated)
            return opened

        def making(material: PlainKeyMaterialImpl, key: bytes, auth_tag: bytes) -> None:
            self._write("payload", key)
            make(material, key, auth_tag)

        setattr(KDFChain, "step", stepping)  # noqa: B010  the same
        setattr(AEADImpl, "encrypt", classmethod(encrypting))  # noqa: B010  mypy holds methods fixed
        setattr(AEADImpl, "decrypt", classmethod(decrypting))  # noqa: B010  the same
        setattr(PlainKeyMaterialImpl, "__init__", making)  # noqa: B010  the same


class Receiver:
    """The client: it marks each message as read and keeps nothing of it."""

    def __init__(self, options: argparse.Namespace, recorder: Recorder | None) -> None:
        self._account = Account(options.account, PASSWORD)
        self._address = (HOST, options.port)
        self._vault = options.vault
        self._recorder = recorder
        self._echoing = options.echo
        self._source = ManualSource(wall_time=float(int(time.time())))
        self._changed = asyncio.Event()
        self.read = 0
        self.expired = 0
        self._first = 0.0
        self._held: list[Message] = []

    async def arrive(self) -> dict[str, Any]:
        """Attach, connect, and wait until OMEMO has started."""
        self.clock = ManualClock(self._source)
        self.client = new_client(self._account)
        self.chat = eph_e2ee.attach(self.client, vault=self._vault, clock=self.clock)
        self.client.add_event_handler("ephemeral_message", self._on_message)
        self.client.add_event_handler("ephemeral_expired", self._on_expired)
        started = Happenings(self.client, "omemo_initialized")
        await connect(self.client, self._address)
        await started.next()
        return {}

    async def leave(self) -> dict[str, Any]:
        """Close the chat and the stream."""
        await self.chat.close()
        await disconnect(self.client)
        return {}

    async def take(self, count: int) -> dict[str, Any]:
        """Arrive, and measure what it takes to receive, store and read what has waited.

        The seconds are those from the first message to the last, the processor's those of it all.
        """
        before, self._first = self.read, 0.0
        processor = time.process_time()
        await self.arrive()
        await self.await_read(before + count)
        seconds = time.perf_counter() - self._first
        return {"seconds": seconds, "processor": time.process_time() - processor}

    async def await_read(self, count: int) -> dict[str, Any]:
        """Wait until so many messages have been read since the start."""
        while self.read < count:
            await self._change()
        return {}

    async def expire(self, seconds: float, count: int) -> dict[str, Any]:
        """Let time pass until so many messages have disappeared, and all keys with them."""
        await self.chat._expiry.note()
        self.clock.advance(seconds)
        while self.expired < count:
            await self._change()
        await self.chat._expiry.settle()
        return {}

    async def hold(self, peer: str) -> dict[str, Any]:
        """Read the history and keep it: now it has to be found."""
        self._held = await self.chat.history(peer, limit=100_000)
        return {"held": sum(each.change is None for each in self._held)}

    async def drop(self) -> dict[str, Any]:
        """Keep nothing any more."""
        self._held = []
        return {}

    async def dead(self) -> dict[str, Any]:
        """Tell which of the recorded leaves have been forgotten."""
        leaves = self._recorder.leaves if self._recorder else []
        dead = await self.chat._vault.transact(
            lambda vault: [not vault._keys.alive(leaf) for leaf in leaves]
        )
        return {"dead": dead}

    async def serve(self) -> None:
        """Do what standard input says until it ends."""
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while line := await lines.readline():
            command = json.loads(line)
            answer = await getattr(self, command.pop("do"))(**command)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    async def _on_message(self, message: Message) -> None:
        await message.mark_read()
        if self._echoing:
            await message.reply(message.body or "")
        self.read += 1
        self._first = self._first or time.perf_counter()
        self._changed.set()

    def _on_expired(self, _: object) -> None:
        self.expired += 1
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await asyncio.wait_for(self._changed.wait(), SECONDS)


def main() -> None:
    """Serve one account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--vault", type=Path, required=True)
    parser.add_argument("--record", type=Path, help="the file for dead keys; it exists")
    parser.add_argument("--echo", action="store_true", help="reply to each with its own text")
    parser.add_argument("account")
    options = parser.parse_args()
    recorder = Recorder(options.record) if options.record else None

    async def serve() -> None:
        await Receiver(options, recorder).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
