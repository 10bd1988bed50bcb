"""The protocol without input or output: values in, values out.

Nothing here waits, reads a clock, draws random numbers, logs, or knows slixmpp: time and chance
are arguments. A peer's bytes become a value or a `RemoteProtocolError`, never anything else;
what the application may not ask for is a `LocalProtocolError`.

    xml         strict XML in and out, every limit enforced while the parser runs
    envelope    XEP-0420: build, read, verify
    ephemeral   XEP-0466: the element, its timer, the opt-out
    agreement   the one timer that a conversation ends on
    lifetime    one message from its creation to its tombstone, as a table
    capability  which device can read what
"""
