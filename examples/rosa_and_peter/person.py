"""One side of the conversation, in a process of its own, so that it can be killed.

Orders come in and events go out, one line of JSON each. What it logs, at the most talkative level,
goes to standard error, where the checks look for texts, too.
"""

import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import eph_e2ee
from examples.rosa_and_peter.evidence import Seen
from tests.support.client import Happenings, connect, disconnect, new_client
from tests.support.prosody import Account


def tell(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def seen(message: eph_e2ee.Message) -> dict[str, Any]:
    """Return what a user sees of a message."""
    return asdict(
        Seen(
            number=message.number,
            direction=message.direction.value,
            phase=message.phase.value,
            body=message.body,
            sender=message.sender,
            message_id=message.message_id,
            timer=seconds(message.timer),
            deadline=message.deadline,
        )
    )


def seconds(timer: timedelta | None) -> int | None:
    return None if timer is None else int(timer.total_seconds())


def delta(timer: int | None) -> timedelta | None:
    return None if timer is None else timedelta(seconds=timer)


class Person:
    """A chat with one peer, driven by orders."""

    def __init__(self, chat: eph_e2ee.Chat, peer: str) -> None:
        self._chat = chat
        self._peer = peer
        self._received: dict[int, eph_e2ee.Message] = {}

    def on_message(self, message: eph_e2ee.Message) -> None:
        self._received[message.number] = message
        tell("message", message=seen(message))

    def on_expired(self, expired: eph_e2ee.Expired) -> None:
        tell("vanished", number=expired.number, at=time.time())

    def on_timer_changed(self, change: eph_e2ee.TimerChange) -> None:
        tell("timer", old=change.old, new=change.new, author=change.author)

    def on_rejected(self, rejection: eph_e2ee.Rejection) -> None:
        tell("rejected", reason=rejection.reason.value)

    async def obey(self, order: dict[str, Any]) -> Any:
        match order["do"]:
            case "say":
                return seen(await self._chat.send(self._peer, order["text"]))
            case "read":
                await self._received[order["number"]].mark_read()
                return seen(self._received[order["number"]])
            case "set_timer":
                return await self._chat.set_timer(self._peer, delta(order["timer"]))
            case "history":
                asked = time.time()
                history = await self._chat.history(self._peer)
                messages = [seen(each) for each in history if each.change is None]
                return {"asked": asked, "at": time.time(), "messages": messages}
            case unknown:
                raise ValueError(unknown)


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def main() -> None:
    orders = await standard_input()
    role = json.loads(await orders.readline())
    client = new_client(Account(role["jid"], role["password"]))
    chat = eph_e2ee.attach(client, vault=role["vault"], timer=delta(role["timer"]))
    person = Person(chat, role["peer"])
    client.add_event_handler("ephemeral_message", person.on_message)
    client.add_event_handler("ephemeral_expired", person.on_expired)
    client.add_event_handler("ephemeral_timer_changed", person.on_timer_changed)
    client.add_event_handler("ephemeral_rejected", person.on_rejected)
    async with chat:
        with Happenings(client, "omemo_initialized") as initialized:
            await connect(client, (role["host"], role["port"]))
            await initialized.next()
        tell("answer", value=time.time())
        while line := await orders.readline():
            tell("answer", value=await person.obey(json.loads(line)))
    await disconnect(client)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    asyncio.run(main())
