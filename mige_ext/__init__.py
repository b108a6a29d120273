"""MIGE: gradients of mutual information and entropy from samples, for PyTorch.

    >>> import torch, mige_ext as mige
    >>> encoder = torch.nn.Linear(10, 4)
    >>> x = torch.randn(256, 10)
    >>> (-mige.mutual_information(x, encoder(x))).backward()  # ascend I(x; z)

Wen et al., "Mutual Information Gradient Estimation for Representation Learning", ICLR 2020.
"""

import sys

# ``python -m mige_ext`` imports this package first. Its help must not wait for torch.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "mige_ext":
    from mige_ext._command_line import before_torch_loads

    before_torch_loads()

import torch  # noqa: F401  (loads libtorch, which _C is linked to)

try:
    from mige_ext import _C  # noqa: F401  (its import registers the operators)
except ImportError as error:
    raise ImportError(
        f"mige_ext._C, the compiled part of mige_ext, could not be loaded ({error}). Build it with "
        "`pip install --no-build-isolation -e .` in the source tree. If mige_ext is installed "
        "already, the source tree in the current directory hides it: change the directory."
    ) from error

from mige_ext.information import encoder_information, entropy, mutual_information
from mige_ext.projection import RandomProjection
from mige_ext.scores.adaptive import AdaptiveDiagnostics, AdaptiveScore, FittedAdaptive
from mige_ext.scores.base import Diagnostics, Fitted, ScoreEstimator
from mige_ext.scores.gaussian import FittedGaussian, GaussianDiagnostics, GaussianScore
from mige_ext.scores.kernel.filters import (
    SSGE,
    FittedSSGE,
    Landweber,
    NuMethod,
    Stein,
    Tikhonov,
)
from mige_ext.scores.kernel.kernels import IMQ, RBF, Bandwidth, Kernel
from mige_ext.scores.kernel.spectral import FittedFilter, SpectralFilter
from mige_ext.scores.landmarks import FittedLandmarks, Landmarks, LandmarkStatistics
from mige_ext.scores.network import FittedNetwork, NetworkDiagnostics, SlicedScoreMatching

__version__ = "0.1.0"

__all__ = [
    "IMQ",
    "RBF",
    "SSGE",
    "AdaptiveDiagnostics",
    "AdaptiveScore",
    "Bandwidth",
    "Diagnostics",
    "Fitted",
    "FittedAdaptive",
    "FittedFilter",
    "FittedGaussian",
    "FittedLandmarks",
    "FittedNetwork",
    "FittedSSGE",
    "GaussianDiagnostics",
    "GaussianScore",
    "Kernel",
    "LandmarkStatistics",
    "Landmarks",
    "Landweber",
    "NetworkDiagnostics",
    "NuMethod",
    "RandomProjection",
    "ScoreEstimator",
    "SlicedScoreMatching",
    "SpectralFilter",
    "Stein",
    "Tikhonov",
    "encoder_information",
    "entropy",
    "mutual_information",
]
