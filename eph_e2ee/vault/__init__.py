"""The erasable store: what is in it can be forgotten beyond recovery, on time."""
