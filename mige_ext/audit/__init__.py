"""Audit of finished codes: what a strong attacker finds about s in z.

Train an encoder with any method, and encode data that the encoder was not trained on. Then measure
what the codes z still reveal about s::

    found = mige_ext.audit.leakage(z, s)
    print(found.nats, found.standard_error, found.attacker)

The audit needs scikit-learn and tqdm (the extra ``audit``).
"""

from mige_ext.audit._leakage import leakage
from mige_ext.audit._records import ATTACKERS, Attack, Leakage

__all__ = ["ATTACKERS", "Attack", "Leakage", "leakage"]
