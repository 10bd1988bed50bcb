"""`attach()`: a client of slixmpp, and all that it gets."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from eph_e2ee.chat import Chat, Options, seconds
from eph_e2ee.clear import SHORTEST_CLEAR_TIMER, ClearTimers
from eph_e2ee.clock import Clock
from eph_e2ee.errors import LocalProtocolError
from eph_e2ee.model import BareJid, Legacy, Untrusted
from eph_e2ee.vault.exporting import require_identity
from eph_e2ee.vault.owner import require_owner
from eph_e2ee.vault.ratchets import Ratchets
from eph_e2ee.vault.rootkey import RootKey
from eph_e2ee.vault.vault import Vault
from eph_e2ee.xmpp.account import Account, Client
from eph_e2ee.xmpp.deciding import Decide

__all__ = ["TrustPolicy", "UntrustedPolicy", "attach"]

Policy = TypeVar("Policy", Legacy, Untrusted)

LegacyPolicy = Literal["deliver", "omit", "refuse"]
"""The values of `model.Legacy`, as an application writes them."""

TrustPolicy = Literal["btbv", "manual"]
"""Blind trust before verification, or devices that the application has trusted one by one."""

UntrustedPolicy = Literal["deliver", "withhold"]
"""The values of `model.Untrusted`, as an application writes them."""


def attach(  # noqa: PLR0913 -- all but one by name, and all but two have a default
    client: Client,
    *,
    vault: str | Path,
    timer: timedelta | None = None,
    trust: TrustPolicy = "btbv",
    decide: Decide | None = None,
    untrusted: UntrustedPolicy = "deliver",
    legacy: LegacyPolicy = "deliver",
    root_key: RootKey | None = None,
    database: str | None = None,
    clock: Clock | None = None,
    unread_cap: timedelta | None = None,
    receipts: bool = False,
    carbons: bool = True,
    catch_up: bool = True,
    displayed_sync: bool = True,
    clear_floor: timedelta = timedelta(seconds=SHORTEST_CLEAR_TIMER),
    clear_changes: bool = False,
) -> Chat:
    """Give a client end-to-end encrypted messages that disappear. Call it before it connects.

    Args:
        client: a slixmpp client without an XEP-0384 plugin.
        vault: the folder of the vault, made when it is missing; one process may use it at a time.
            It belongs to the account that is the first to attach with it.
        timer: whole seconds, 1 s to 2**32 - 1 s; the timer of conversations that nobody has given
            one yet. None for none.
        trust: how devices come to be trusted. "btbv": each is, blindly, until `Chat.trust` has been
            used for one of its account; those that come later have to be decided on. "manual": each
            has to be.
        decide: awaited with the devices that have to be decided on, before a message leaves them
            out; it calls `Chat.trust`, and may take as long as people do. Only messages that are
            for these devices wait, and all for one call. What it leaves undecided, whatever it
            raises, is left out, and asked again for the next message. A message that it sends
            itself does not wait for it.
        untrusted: what becomes of messages from devices that are distrusted or have to be decided
            on: shown and marked by `Message.trust` ("deliver"), or not shown ("withhold"). Neither
            changes timers or other messages.
            Those of undecided devices wait in the vault and come once `Chat.trust` says "trusted":
            of an account the first 64, up to 256 Ki characters of their stanzas. All accounts have
            four times as much; beyond it the one with most loses its last, for one that has less.
            They wait no longer than `unread_cap`; see `model.Untrusted`.
        legacy: what devices get that have legacy OMEMO, which has no place for a timer: the text
            with the timer in clear ("deliver"), the text alone ("omit"), nothing ("refuse").
        root_key: where the vault's root key is kept; by default a file in the vault.
        database: the address of a PostgreSQL database for the rows, `postgresql://user@host/name`;
            by default a file in the vault. The keys are in the vault's folder in any case.
        clock: the clock that deadlines are measured by; by default the system's.
        unread_cap: how long messages with a timer are kept that nobody reads, in the timer's range
            and counted from their arrival. None keeps them until they are read.
        receipts: whether peers are asked for receipts and markers and get them (XEP-0184,
            XEP-0333), in envelopes. Our own other devices are always told what was read.
        carbons: whether the server is asked for copies of what our other devices send and get.
        catch_up: whether the archive is read at the beginning of each session.
        displayed_sync: whether the server is told, and believed, how far conversations were read
            (XEP-0490). It could start timers with that, though none below five seconds.
        clear_floor: what a shorter timer counts as that stood in clear beside legacy OMEMO, where
            any server on the way may have written it; in the timer's range.
        clear_changes: whether such a timer may become the conversation's. Then a server can change
            that, too; `TimerChange.authenticated` tells of it.

    Raises:
        LocalProtocolError: the client has an XEP-0384 plugin, a time is out of its range, a policy
            is none, the address cannot be used, the vault is another account's, or its OMEMO
            identity has been exported.
        TypeError: a time is no timedelta.
        VaultError: the vault cannot be opened; nothing in it was changed.
    """
    default, policy = None if timer is None else seconds(timer), _policy(Legacy, legacy)
    trusting = _trusting(trust, decide, untrusted)
    cap = None if unread_cap is None else seconds(unread_cap)
    clear = ClearTimers(seconds(clear_floor), clear_changes)
    clock = Clock() if clock is None else clock
    opened = Vault.open(Path(vault), clock=clock, root_key=root_key, database=database)
    try:
        require_identity(opened)
        if client.boundjid.user:  # anonymous ones are somebody else each time
            require_owner(opened, BareJid(client.boundjid.bare))
        account = Account.attached(client, Ratchets(opened), now=clock.now, **trusting)
        options = Options(default, policy, cap, receipts, carbons, catch_up, displayed_sync, clear)
        return Chat(account, opened, clock, options)
    except BaseException:
        opened.close_sync()
        raise


def _policy(kind: type[Policy], value: str) -> Policy:
    try:
        return kind(value)
    except ValueError:
        values = " or ".join(f'"{each.value}"' for each in kind)
        raise LocalProtocolError(f"{kind.__name__.lower()} is {values}") from None


def _trusting(trust: str, decide: Decide | None, untrusted: str) -> dict[str, Any]:
    if trust not in get_args(TrustPolicy):
        raise LocalProtocolError('trust is "btbv" or "manual"')
    kept = _policy(Untrusted, untrusted)
    return {"blind_trust": trust == "btbv", "decide": decide, "untrusted": kept}
