"""MIGE: gradients of mutual information and entropy from samples, for PyTorch.

    >>> import torch, mige_ext as mige
    >>> encoder = torch.nn.Linear(10, 4)
    >>> x = torch.randn(256, 10)
    >>> (-mige.code_information(x, encoder(x))).backward()  # maximize I(x; z + noise)

Wen et al., "Mutual Information Gradient Estimation for Representation Learning", ICLR 2020.
"""

import importlib
import sys
from typing import Any

# ``python -m mige_ext`` imports this package first, and the help must not wait for torch.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "mige_ext":
    from mige_ext._command_line import before_torch_loads

    before_torch_loads()

import torch  # loads libtorch, which _C needs

try:
    importlib.import_module("mige_ext._C")  # registers the operators
except ModuleNotFoundError as error:
    raise ImportError(
        "mige_ext is not built: this folder has no compiled module mige_ext._C. Type "
        "`pip install --no-build-isolation -e .` in the source tree, or change to another folder "
        "if mige_ext is installed and the source tree hides it."
    ) from error
except ImportError as error:
    raise ImportError(
        f"mige_ext._C, the compiled part of mige_ext, does not load under torch "
        f"{torch.__version__}: {error}. With torch 2.11 or newer, type "
        "`pip install --no-build-isolation -e .` in the source tree to build it again."
    ) from error

from mige_ext._recording import SurrogateRecord, TermRecord, recording
from mige_ext._warnings import MigeWarning
from mige_ext.information import (
    DEFAULT_ESTIMATOR,
    code_information,
    encoder_information,
    entropy,
    mutual_information,
    negentropy,
)
from mige_ext.projection import RandomProjection
from mige_ext.scores.adaptive import AdaptiveDiagnostics, AdaptiveScore, FittedAdaptive
from mige_ext.scores.base import (
    Diagnostics,
    DistributedScoreEstimator,
    FittableEstimator,
    Fitted,
    PairScoreEstimator,
    ScoreEstimator,
)
from mige_ext.scores.gaussian import FittedGaussian, GaussianDiagnostics, GaussianScore
from mige_ext.scores.kernel.kernels import IMQ, RBF, Bandwidth, Kernel
from mige_ext.scores.kernel.landweber import Landweber
from mige_ext.scores.kernel.nu_method import NuMethod
from mige_ext.scores.kernel.spectral import FittedFilter, SpectralFilter
from mige_ext.scores.kernel.ssge import SSGE, FittedSSGE
from mige_ext.scores.kernel.tikhonov import Stein, Tikhonov
from mige_ext.scores.landmark_fit import FittedLandmarks, LandmarkStatistics
from mige_ext.scores.landmarks import Landmarks
from mige_ext.scores.network import FittedNetwork, NetworkDiagnostics, SlicedScoreMatching
from mige_ext.values import (
    EntropyValue,
    InformationValue,
    estimate_entropy,
    estimate_mutual_information,
)

__version__ = "0.2.0"

#: Public modules, each of which is imported at its first use.
_MODULES = (
    "audit",
    "bounds",
    "compat",
    "distributed",
    "experiments",
    "information",
    "ops",
    "projection",
    "reference",
    "scores",
    "values",
)

__all__ = [
    "DEFAULT_ESTIMATOR",
    "IMQ",
    "RBF",
    "SSGE",
    "AdaptiveDiagnostics",
    "AdaptiveScore",
    "Bandwidth",
    "Diagnostics",
    "DistributedScoreEstimator",
    "EntropyValue",
    "FittableEstimator",
    "Fitted",
    "FittedAdaptive",
    "FittedFilter",
    "FittedGaussian",
    "FittedLandmarks",
    "FittedNetwork",
    "FittedSSGE",
    "GaussianDiagnostics",
    "GaussianScore",
    "InformationValue",
    "Kernel",
    "LandmarkStatistics",
    "Landmarks",
    "Landweber",
    "MigeWarning",
    "NetworkDiagnostics",
    "NuMethod",
    "PairScoreEstimator",
    "RandomProjection",
    "ScoreEstimator",
    "SlicedScoreMatching",
    "SpectralFilter",
    "Stein",
    "SurrogateRecord",
    "TermRecord",
    "Tikhonov",
    "code_information",
    "encoder_information",
    "entropy",
    "estimate_entropy",
    "estimate_mutual_information",
    "mutual_information",
    "negentropy",
    "recording",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"mige_ext.{name}")
    raise AttributeError(f"module 'mige_ext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
