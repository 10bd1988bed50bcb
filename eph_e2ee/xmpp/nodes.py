"""What we publish on nodes of our own account (XEP-0163), whatever options the server knows.

A node has to keep all that our devices publish on it and show it to nobody else than it is for.
Options of a publication (XEP-0060 section 7.1.5) would do that at once, but servers differ in which
ones they know: ejabberd 23.01 refuses a publication with any other than the two of `KNOWN`, and a
node that it then makes by itself keeps one item, the last device's. There the node is configured
first.
"""

from collections.abc import Mapping
from typing import Any, Final
from xml.etree.ElementTree import Element

import omemo
import twomemo.etree
from slixmpp import JID
from slixmpp.exceptions import IqError, XMPPError
from twomemo.twomemo import BundleImpl

__all__ = ["Nodes", "several_devices"]

ANSWER: Final = 30.0
"""Seconds that the server has for an answer."""

BUNDLES: Final = "urn:xmpp:omemo:2:bundles"

BUNDLES_OPTIONS: Final = {
    "pubsub#access_model": "open",
    "pubsub#persist_items": "true",
    "pubsub#max_items": "max",
}
"""XEP-0384 section 5.3.2: anybody may read them, and each device's own one stays."""

KNOWN: Final = ("pubsub#access_model", "pubsub#persist_items")
"""The options that every server takes with a publication: a node is never open by mistake."""

CONFIGURATION: Final = "http://jabber.org/protocol/pubsub#node_config"
PUBLICATION: Final = "http://jabber.org/protocol/pubsub#publish-options"


class Nodes:
    """Publishes items on nodes of our own account."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._configured: set[str] = set()

    async def publish(
        self, node: str, item: str, payload: Element, options: Mapping[str, str]
    ) -> None:
        """Publish an item on a node with these options, which is made or configured if need be.

        Raises:
            XMPPError: the server refused, or did not answer.
        """
        known = {name: value for name, value in options.items() if name in KNOWN}
        if node in self._configured:
            await self._publish(node, item, payload, known)
            return
        try:
            await self._publish(node, item, payload, options)
        except IqError:
            # Unknown options, or a node that is there and has others (XEP-0060 section 7.1.5).
            await self._configure(node, options)
            await self._publish(node, item, payload, known)
            self._configured.add(node)

    async def publish_bundle(self, bundle: BundleImpl) -> None:
        """Publish our keys for omemo:2, beside those of our other devices.

        Raises:
            BundleUploadFailed: the server refused, or did not answer.
        """
        payload = twomemo.etree.serialize_bundle(bundle)
        try:
            await self.publish(BUNDLES, str(bundle.device_id), payload, BUNDLES_OPTIONS)
        except XMPPError as failure:
            raise omemo.BundleUploadFailed("the server did not take our keys") from failure

    async def _publish(
        self, node: str, item: str, payload: Element, options: Mapping[str, str]
    ) -> None:
        form = self._form(PUBLICATION, options)
        await self._pubsub.publish(
            None, node, id=item, payload=payload, options=form, timeout=ANSWER
        )

    async def _configure(self, node: str, options: Mapping[str, str]) -> None:
        """Configure a node (XEP-0060 section 8.2), or create it so (section 8.1.3)."""
        form = self._form(CONFIGURATION, options)
        own = JID(self._client.boundjid.bare)
        try:
            await self._pubsub.set_node_config(own, node, form, timeout=ANSWER)
        except IqError as failure:
            if failure.condition != "item-not-found":
                raise
            await self._pubsub.create_node(own, node, config=form, timeout=ANSWER)

    def _form(self, kind: str, options: Mapping[str, str]) -> Any:
        form = self._client.plugin.get("xep_0004", None).make_form(ftype="submit")
        form.add_field(var="FORM_TYPE", ftype="hidden", value=kind)
        for name, value in options.items():
            form.add_field(var=name, value=value)
        return form

    @property
    def _pubsub(self) -> Any:
        return self._client.plugin.get("xep_0060", None)


def several_devices(
    network: type[omemo.SessionManager], nodes: Nodes
) -> type[omemo.SessionManager]:
    """slixmpp-omemo's part of a session manager, with keys that stay beside other devices'."""

    async def upload(bundle: omemo.Bundle) -> None:
        if isinstance(bundle, BundleImpl):
            await nodes.publish_bundle(bundle)
        else:
            await network._upload_bundle(bundle)  # noqa: SLF001 -- a hook, and so protected

    return type("Network", (network,), {"_upload_bundle": staticmethod(upload)})
