"""The rim: the only room that knows slixmpp and python-omemo."""
