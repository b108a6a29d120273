"""The Information Bottleneck: a code z that predicts the class y and forgets the rest of x.

An encoder ``q(z|x)`` and a decoder ``p(y|z)`` minimize

    E[−log p(y|z)] + β penalty.

With the encoder ``N(μ(x), σ(x)²)`` the penalty is an estimate of I(z; x) = H(z) − H(z|x):

* **MIGE** follows the gradient of I (Wen et al., ICLR 2020, circumstance III). The gradient of H(z)
  comes from the score of z, and ``H(z|x) = E Σ log σ`` + constant has a closed form. **MIGE,
  draws** is the setting of the paper, which estimates both entropies from draws, with uncalibrated
  scores.
* **VIB** replaces I by an upper bound, ``E KL(q(z|x) ‖ N(0, I))`` (Alemi et al., ICLR 2017).
* **MINE** replaces I by a lower bound. A critic maximizes the bound, and the encoder minimizes it
  (Belghazi et al., ICML 2018).

Dropout, the confidence penalty and label smoothing do not use I(z; x) (Pereyra et al., 2017). Three
controls are simpler than an estimate of I(z; x): **entropy** minimizes only H(z), **Gaussian
score** computes the score of z from the covariance, and **L2** minimizes ‖z‖² of a deterministic
code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.bounds import SeparableCritic, mine, split_pairs
from mige_ext.experiments.common.estimators import ESTIMATORS, make_estimator
from mige_ext.experiments.common.methods import Learner, always, descend
from mige_ext.experiments.common.methods import Method as CommonMethod
from mige_ext.experiments.common.options import Checked, data_option, option
from mige_ext.scores.base import ScoreEstimator

CONDITIONALS = ("analytic", "draws")  # H(z|x) in closed form, or by scores of the draws
SCHEDULES = ("step", "cosine")  # × 0.96 every 2 epochs, or half a cosine that ends at 0


@dataclass(frozen=True)
class Settings(Checked):
    """Everything on which the numbers of a run depend, except method, β and seed.

    The defaults were chosen on the validation part of digits. ``PAPER`` has the settings of the
    paper. Without ``calibrate``, the gradient of H(z) by SSGE is too small, but the gradient of
    H(z|x) in closed form is exact, and training increases σ.

    A smaller number ``marginals`` saves time, and changes only the variance of the gradient. (On
    MNIST with 16 draws and one thread, the penalty adds 53 % to the time of a step with 16
    ``marginals``, and 18 % with 4.)
    """

    data: str = data_option("digits")
    epochs: int = option(100, "Epochs.", least=1, shown="digits: 100; else 20; --quick: 40")
    batch: int = option(100, "Images in a step, from which scores are estimated.", least=2)
    draws: int = option(4, "Draws of z for each image.", least=1, shown="digits: 4; else 16")
    latent: int = option(16, "Dimensions of z.", least=1, shown="digits: 16; else 256")
    hidden: int = option(256, "Units of a hidden layer.", least=1, shown="digits: 256; else 1024")
    learning_rate: float = option(
        1e-3, "First learning rate of Adam.", positive=True, shown="digits: 1e-3; else 1e-4"
    )
    schedule: str = option(
        "step",
        "Decay of the learning rate, × 0.96 every 2 epochs or as a cosine that ends at 0.",
        choices=SCHEDULES,
    )
    smoothing: float = option(
        0.0, "Label smoothing of every method, added to β of label-smoothing.", least=0, below=1
    )
    dropout: float = option(
        0.0,
        "Fraction of hidden units that every method except dropout drops.",
        least=0,
        below=1,
    )
    normalize: bool = option(True, "Apply BatchNorm to μ.", shown="digits: on; else off")
    estimator: str = option("ssge", "Score estimator.", choices=ESTIMATORS)
    threshold: float = option(0.94, "Fraction of the spectrum that SSGE keeps.")
    calibrate: bool = option(True, "Calibrate the scores by Stein's identity.")
    conditional: str = option("analytic", "Source of H(z|x) in MIGE.", choices=CONDITIONALS)
    marginals: int = option(4, "Largest number of draws over which H(z) is averaged.", least=1)
    average: float = option(0.0, "Decay of averaged weights; 0 for no average.", least=0, below=1)
    peek: bool = option(
        False,
        "Also record the test error after every epoch. The least of these errors is a choice on "
        "the test set.",
        "--peek",
    )

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.conditional == "draws" and self.draws < 2:
            raise ValueError(f"draws must be at least 2 with conditional='draws', got {self.draws}")
        self.make_estimator()  # checks the threshold

    def make_estimator(self) -> ScoreEstimator:
        """The score estimator of these settings."""
        calibrate = "stein" if self.calibrate else None
        return make_estimator(self.estimator, threshold=self.threshold, calibrate=calibrate)


#: The paper's settings for MNIST. The encoder has layers of 784, 1024, 1024 and 2 · 256 units, for
#: μ and σ of 256 dimensions.
PAPER = Settings(
    data="mnist", epochs=20, draws=16, latent=256, hidden=1024, learning_rate=1e-4, normalize=False
)


# The network


class Output(NamedTuple):
    """Output of the network for N inputs with K draws each."""

    mean: Tensor  # (N, d), μ
    log_sigma: Tensor  # (N, d), log σ; −∞ for a deterministic encoder
    z: Tensor  # (N, K, d)
    logits: Tensor  # (N, K, classes)


class Classifier(nn.Module):
    """An encoder with two hidden layers, and a linear decoder.

    Args:
        inputs: Pixels of an image.
        classes: Number of classes.
        settings: Sizes, and the normalization.
        stochastic: Whether z is drawn. If False, z = μ.
        dropout: Fraction of hidden units that a training step drops.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        settings: Settings,
        *,
        stochastic: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden, latent = settings.hidden, settings.latent
        self.stochastic = stochastic
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.mean = nn.Linear(hidden, latent)
        self.spread = nn.Linear(hidden, latent)
        self.norm = nn.BatchNorm1d(latent, affine=False) if settings.normalize else nn.Identity()
        self.decoder = nn.Linear(latent, classes)
        # Glorot initialization, as in Alemi et al. With PyTorch's smaller default weights, z starts
        # near one point, and the penalty on the entropy makes z collapse to this point, because the
        # gradient of the entropy grows as 1 / scale.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, draws: int | None = None) -> Output:
        """Encode and decode x (N, C, H, W), with z = μ(x) if ``draws`` is None."""
        features = self.body(x)
        mean = self.norm(self.mean(features))
        if self.stochastic:
            # As in Alemi et al., σ starts near 0.007, and the encoder is almost deterministic.
            log_sigma = F.softplus(self.spread(features) - 5).log()
        else:
            log_sigma = torch.full_like(mean, -math.inf)
        z = mean.unsqueeze(1)
        if self.stochastic and draws is not None:
            noise = torch.randn(len(x), draws, mean.shape[-1], device=x.device)
            z = z + log_sigma.exp().unsqueeze(1) * noise
        return Output(mean, log_sigma, z, self.decoder(z))


def cross_entropy(out: Output, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """E[−log p(y|z)] over inputs and draws; labels (N), smoothed with this weight."""
    labels = labels.unsqueeze(1).expand(out.logits.shape[:2])
    logits = out.logits.flatten(0, 1)
    return F.cross_entropy(logits, labels.flatten(), label_smoothing=smoothing)


# The penalties, for inputs x (N, C, H, W) with labels (N)

Penalty = Callable[[Output, Tensor, Tensor], Tensor]


def variational(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """VIB: the mean of KL(q(z|x) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1) − Σ log σ over the inputs."""
    second_moment = out.mean.square() + (2 * out.log_sigma).exp()
    return (0.5 * (second_moment - 1) - out.log_sigma).sum(-1).mean()


def information_gradient(settings: Settings, inputs: int) -> Penalty:
    """MIGE: a surrogate of I(z; x) = H(z) − H(z|x) with the gradient of both terms."""
    marginal, estimator = entropy(settings, inputs), settings.make_estimator()

    def penalty(out: Output, x: Tensor, labels: Tensor) -> Tensor:
        if settings.conditional == "analytic":
            conditional = out.log_sigma.sum(-1).mean()
        else:
            conditional = mige.entropy(out.z, estimator=estimator)
        return marginal(out, x, labels) - conditional

    return penalty


def drawn_information(settings: Settings, inputs: int) -> Penalty:
    """The paper's MIGE: both entropies by uncalibrated scores of the draws.

    Scores of SSGE are too small if there are few samples. An input has few draws, so the gradient
    of H(z|x) nearly vanishes, and the penalty acts almost only on H(z).
    """
    return information_gradient(replace(settings, calibrate=False, conditional="draws"), inputs)


def gaussian_information(settings: Settings, inputs: int) -> Penalty:
    """Control of MIGE: H(z) by the score of a Gaussian, H(z|x) in closed form."""
    return information_gradient(
        replace(settings, estimator="gaussian", conditional="analytic"), inputs
    )


def entropy(settings: Settings, inputs: int) -> Penalty:
    """Control of MIGE: only H(z), averaged over the draws."""
    estimator = settings.make_estimator()

    def penalty(out: Output, x: Tensor, labels: Tensor) -> Tensor:
        z = out.z[:, : settings.marginals]
        return mige.entropy(z.transpose(0, 1), estimator=estimator)

    return penalty


class TrainedBound(Learner):
    """MINE: I(z; x) ≥ E_joint[T] − log E_marginal[e^T], with a trained critic T(x, z).

    Each call trains the critic for one step, which raises the bound, and returns the bound. The
    bound uses all pairs of the batch, with the first draw of each z.

    Args:
        settings: Sizes and the learning rate.
        inputs: Pixels of an image.
    """

    def __init__(self, settings: Settings, inputs: int) -> None:
        hidden = settings.hidden // 2 + 1
        critic = SeparableCritic(inputs, settings.latent, hidden, embedding=128)
        super().__init__(critic, settings.learning_rate)

    def forward(self, out: Output, x: Tensor, labels: Tensor) -> Tensor:
        """The bound in nats and its gradient with respect to z, before the step of the critic."""
        z = out.z[:, 0]
        code = z.detach().requires_grad_()
        scores = self.network(x.flatten(1)[:, None], code[None])
        bound, self.average = mine(*split_pairs(scores), self.average)
        # This also sets code.grad to the gradient of −bound.
        descend(self.optimizer, -bound)
        assert code.grad is not None
        return bound.detach() + ((z - code.detach()) * -code.grad).sum()


def squared_norm(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """L2: the mean of ‖z‖² over the inputs."""
    return out.z.square().sum(-1).mean()


def confidence(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """Confidence penalty: −H(p(y|z)) = Σ p log p."""
    log_p = out.logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean()


def smoothing(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """Label smoothing: the penalty in the loss CE + β (mean_k CE_k − CE), with classes k.

    The loss is the cross-entropy for a target with the probability 1 − β of the label, plus β
    spread evenly over all classes.
    """
    every_class = -out.logits.log_softmax(-1).mean(-1).mean()
    return every_class - cross_entropy(out, labels)


# The methods


@dataclass(frozen=True)
class Method(CommonMethod):
    """A method, whose penalty is a function of the settings and the number of pixels."""

    stochastic: bool = False  # whether the encoder draws z
    dropout: bool = False  # whether β is the rate of dropout
    free_scale: bool = False  # whether z has no BatchNorm, which would make ‖z‖² constant
    #: Test error on MNIST in %, in the paper's Table 2 (by Alemi et al., except for MIGE).
    published: float | None = None


#: Grid of β for most methods. The least β has no visible effect on the error, and the largest β
#: increases the error.
BETAS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_RATES = (0.1, 0.2, 0.3, 0.4, 0.5)
_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)

METHODS = {
    "baseline": Method("deterministic", published=1.38),
    "dropout": Method("dropout", _RATES, dropout=True, published=1.34),
    "confidence-penalty": Method("conf. penalty", _WEIGHTS, always(confidence), published=1.36),
    "label-smoothing": Method("label smoothing", _FRACTIONS, always(smoothing), published=1.40),
    "vib": Method("VIB", BETAS, always(variational), stochastic=True, published=1.13),
    "mine": Method("MINE", BETAS, TrainedBound, stochastic=True),
    "mige": Method("MIGE", BETAS, information_gradient, stochastic=True),
    "mige-draws": Method("MIGE, draws", BETAS, drawn_information, stochastic=True, published=1.05),
    "gaussian": Method("Gaussian score", BETAS, gaussian_information, stochastic=True),
    "entropy": Method("entropy", BETAS, entropy, stochastic=True),
    "l2": Method("L2", BETAS, always(squared_norm), free_scale=True),
}
