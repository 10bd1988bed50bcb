"""python-omemo's failures in the project's own words."""

import omemo
from omemo.session_manager import (
    NoEligibleDevices as NobodyEligible,
)
from omemo.session_manager import StillUndecided, TrustDecisionFailed

from eph_e2ee.errors import NoEligibleDevices, NotSent, TrustUndecided
from eph_e2ee.xmpp.encrypting import NoEligibleDevices as NobodyReached

__all__ = ["not_sent"]


def not_sent(failure: omemo.OMEMOException) -> NotSent:
    """The error that a failure of python-omemo's is told as; it holds none of its text."""
    if isinstance(failure, NobodyEligible):
        causes = failure.causes if isinstance(failure, NobodyReached) else frozenset()
        return NoEligibleDevices(failure.bare_jids, causes)
    if isinstance(failure, StillUndecided | TrustDecisionFailed):
        return TrustUndecided("decide on the trust of the recipient's new devices, and send again")
    return NotSent(f"OMEMO could not encrypt ({type(failure).__name__}); send again later")
