"""Surrogates of entropy and mutual information: scalars with the right gradient.

With ``z = E_ψ(x)``, the gradient of the entropy needs only the score of z:

    ∇_ψ H(z) = −E[∇_z log q(z) ∂z/∂ψ]

A score estimator therefore gives ∇H, and ``I(x; z) = H(x) + H(z) − H(x, z)`` gives ∇I, without an
estimate of H or I (Wen et al., ICLR 2020). The functions of this package return *surrogates*, which
are scalars with the gradient of H or I. Maximize or minimize a surrogate like the quantity itself,
and ignore its value, which means nothing.

To remove a nuisance s from a representation z, add ``I(s; z)`` to the loss, at a fixed scale of z.
``docs/removing.md`` has the recipe.

Every argument that requires a gradient gets a gradient of its dtype. Scores are computed in float32
or float64, also under autocast. A second derivative raises an error.

A call that is valid but probably not meant gives a :class:`.MigeWarning`, once for each kind.
"""

from mige_ext.information._common import DEFAULT_ESTIMATOR
from mige_ext.information._encoder import encoder_information
from mige_ext.information._entropies import entropy, negentropy
from mige_ext.information._mutual import code_information, mutual_information

__all__ = [
    "DEFAULT_ESTIMATOR",
    "code_information",
    "encoder_information",
    "entropy",
    "mutual_information",
    "negentropy",
]
