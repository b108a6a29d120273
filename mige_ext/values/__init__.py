"""Values of mutual information and entropy in nats, for logging; they have no gradient.

The functions of :mod:`mige_ext.information` return surrogates, whose gradient is right and whose
value means nothing. The functions of this package return values. ``docs/values.md`` says how
accurate these values are, and when they are wrong.
"""

from mige_ext.values.estimates import estimate_entropy, estimate_mutual_information
from mige_ext.values.records import EntropyValue, InformationValue

__all__ = ["EntropyValue", "InformationValue", "estimate_entropy", "estimate_mutual_information"]
