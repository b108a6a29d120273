"""The Information Bottleneck: a code z that tells the class and as little else about x as possible.

An encoder ``q(z|x)`` and a decoder ``p(y|z)`` minimise

    E[−log p(y|z)] + β penalty,

and a method is what stands for the penalty. Where the encoder is ``N(μ(x), σ(x)²)``, it is one of
I(z; x) = H(z) − H(z|x):

* **MIGE** follows the gradient of I itself (Wen et al., ICLR 2020, circumstance III): that of H(z)
  by the score of z, that of ``H(z|x) = E Σ log σ`` + constant in closed form. **MIGE, draws** has
  the paper's own setting, both entropies from draws, whose scores are not calibrated.
* **VIB** replaces I by an upper bound, ``E KL(q(z|x) ‖ N(0, I))`` (Alemi et al., ICLR 2017).
* **MINE** replaces I by the bound of a critic that is trained to raise it while the encoder lowers
  it (Belghazi et al., ICML 2018).

What regularises without speaking of information: dropout, the confidence penalty and label
smoothing (Pereyra et al., 2017). And what tells whether an estimated I(z; x) does anything that a
cheaper term does not: **entropy** lowers H(z) alone, **Gaussian score** takes the score of H(z)
from the covariance, **L2** lowers ‖z‖² of a deterministic code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.bounds import SeparableCritic, mine, split_pairs
from mige_ext.experiments.common.estimators import make_estimator
from mige_ext.scores.base import ScoreEstimator


@dataclass(frozen=True)
class Settings:
    """What the numbers of a run depend on, beside method, β and seed.

    The defaults were chosen on the validation part of digits; `PAPER` has those of the paper.

    Attributes:
        data: data set, a name of `data.names()`.
        epochs: passes over the training images.
        batch: N, inputs in a step; an incomplete last batch is dropped, scores depend on N.
        draws: K, draws of z for each input in a step, where the encoder is stochastic.
        latent: d, dimension of z.
        hidden: units in each of the encoder's two hidden layers.
        learning_rate: of Adam, × 0.96 every 2 epochs.
        normalise: BatchNorm without affine part on μ.
        estimator: of scores, a name in `ESTIMATORS`.
        threshold: of estimators that have one.
        calibrate: Stein calibration, of estimators that have it. Without it the score of H(z) by
            SSGE is shrunk and that of H(z|x) is not: their difference is then no information, and
            σ is driven up.
        conditional: H(z|x) "analytic", or from the "draws".
        marginals: of how many of the draws H(z) is the mean, at most. Fewer are cheaper, and change
            nothing but the variance of the gradient: on MNIST the penalty adds 53 % to a step with
            16, 17 % with 4 (one thread).
        average: decay of the exponential moving average of the weights, which is measured beside
            them; 0 for none.
    """

    data: str = "digits"
    epochs: int = 100
    batch: int = 100
    draws: int = 4
    latent: int = 16
    hidden: int = 256
    learning_rate: float = 1e-3
    normalise: bool = True
    estimator: str = "ssge"
    threshold: float = 0.94
    calibrate: bool = True
    conditional: str = "analytic"
    marginals: int = 4
    average: float = 0.0

    def __post_init__(self) -> None:
        """Check the values; the data set is checked where it is loaded."""
        for name in ("epochs", "batch", "draws", "latent", "hidden", "marginals"):
            least = 2 if name == "batch" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1), got {self.average}")
        if self.conditional not in ("analytic", "draws"):
            raise ValueError(f"conditional must be 'analytic' or 'draws', got {self.conditional!r}")
        if self.conditional == "draws" and self.draws < 2:
            raise ValueError(f"draws must be at least 2 with conditional='draws', got {self.draws}")
        self.make_estimator()  # checks its name and the threshold

    def make_estimator(self) -> ScoreEstimator:
        """The score estimator of these settings."""
        calibrate = "stein" if self.calibrate else None
        return make_estimator(self.estimator, threshold=self.threshold, calibrate=calibrate)


#: The paper's network and training, for MNIST: 784-1024-1024-2K with K = 256.
PAPER = Settings(
    data="mnist", epochs=20, draws=16, latent=256, hidden=1024, learning_rate=1e-4, normalise=False
)


# The network


class Output(NamedTuple):
    """What the network makes of N inputs with K draws each."""

    mean: Tensor  # (N, d), μ
    log_sigma: Tensor  # (N, d), log σ; −inf where the encoder is deterministic
    z: Tensor  # (N, K, d)
    logits: Tensor  # (N, K, classes)


class Classifier(nn.Module):
    """Encoder of two hidden layers, linear decoder.

    Args:
        inputs: pixels of an image.
        classes: number of labels.
        settings: sizes, and the normalisation.
        stochastic: whether z is drawn, or μ.
        dropout: share of hidden units that a training step leaves out.
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
        self.norm = nn.BatchNorm1d(latent, affine=False) if settings.normalise else nn.Identity()
        self.decoder = nn.Linear(latent, classes)
        # Glorot's weights, as Alemi et al. have them: PyTorch's smaller ones start z so near to a
        # point that the entropy, whose pull is one over the scale, draws it in altogether.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, draws: int | None = None) -> Output:
        """Encode and decode x (N, C, H, W); without draws, z = μ(x)."""
        features = self.body(x)
        mean = self.norm(self.mean(features))
        if self.stochastic:
            # Alemi et al.: σ starts near 0.007, as an almost deterministic encoder
            log_sigma = F.softplus(self.spread(features) - 5).log()
        else:
            log_sigma = torch.full_like(mean, -math.inf)
        z = mean.unsqueeze(1)
        if self.stochastic and draws is not None:
            noise = torch.randn(len(x), draws, mean.shape[-1], device=x.device)
            z = z + log_sigma.exp().unsqueeze(1) * noise
        return Output(mean, log_sigma, z, self.decoder(z))


def cross_entropy(out: Output, labels: Tensor) -> Tensor:
    """E[−log p(y|z)] over inputs and draws; labels (N)."""
    labels = labels.unsqueeze(1).expand(out.logits.shape[:2])
    return F.cross_entropy(out.logits.flatten(0, 1), labels.flatten())


# The penalties, for inputs x (N, C, H, W) with labels (N)

Penalty = Callable[[Output, Tensor, Tensor], Tensor]


def variational(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """VIB: KL(q(z|x) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1) − Σ log σ, mean over the inputs."""
    second_moment = out.mean.square() + (2 * out.log_sigma).exp()
    return (0.5 * (second_moment - 1) - out.log_sigma).sum(-1).mean()


def information_gradient(settings: Settings, inputs: int) -> Penalty:
    """MIGE: I(z; x) = H(z) − H(z|x), a surrogate with the gradient of both terms."""
    marginal, estimator = entropy(settings, inputs), settings.make_estimator()

    def penalty(out: Output, x: Tensor, labels: Tensor) -> Tensor:
        if settings.conditional == "analytic":
            conditional = out.log_sigma.sum(-1).mean()
        else:
            conditional = mige.entropy(out.z, estimator=estimator)
        return marginal(out, x, labels) - conditional

    return penalty


def drawn_information(settings: Settings, inputs: int) -> Penalty:
    """The paper's MIGE: both entropies by scores of the draws, as the estimator gives them.

    From M samples SSGE finds a share of the score that falls with d/M. H(z|x), from the few draws
    of an input, then counts far less than H(z): in effect this is a penalty on the entropy.
    """
    return information_gradient(replace(settings, calibrate=False, conditional="draws"), inputs)


def gaussian_information(settings: Settings, inputs: int) -> Penalty:
    """The control of MIGE: H(z) by the score of a Gaussian, H(z|x) in closed form."""
    return information_gradient(
        replace(settings, estimator="gaussian", conditional="analytic"), inputs
    )


def entropy(settings: Settings, inputs: int) -> Penalty:
    """H(z), the mean over the draws; without H(z|x) the other control of MIGE."""
    estimator = settings.make_estimator()

    def penalty(out: Output, x: Tensor, labels: Tensor) -> Tensor:
        z = out.z[:, : settings.marginals]
        return mige.entropy(z.transpose(0, 1), estimator=estimator)

    return penalty


class TrainedBound(nn.Module):
    """MINE: I(z; x) ≥ E_joint[T] − log E_marginal[e^T], with a critic T(x, z) of its own.

    Each call takes one step of the critic, which raises the bound, with its own Adam; and gives the
    bound for the encoder to lower. Pairs are all of the batch, with the first draw of each z.

    Args:
        settings: sizes, and the learning rate.
        inputs: pixels of an image.
    """

    average: Tensor | None

    def __init__(self, settings: Settings, inputs: int) -> None:
        super().__init__()
        hidden = settings.hidden // 2 + 1
        self.critic = SeparableCritic(inputs, settings.latent, hidden, embedding=128)
        self.optimiser = torch.optim.Adam(
            self.critic.parameters(), settings.learning_rate, fused=True
        )
        self.average = None

    def forward(self, out: Output, x: Tensor, labels: Tensor) -> Tensor:
        """The bound in nats, with a gradient in z alone: that of the critic before its step."""
        z = out.z[:, 0]
        code = z.detach().requires_grad_()
        scores = self.critic(x.flatten(1)[:, None], code[None])
        bound, self.average = mine(*split_pairs(scores), self.average)
        self.optimiser.zero_grad()
        (-bound).backward()  # one pass for both, of opposite signs
        self.optimiser.step()
        assert code.grad is not None
        return bound.detach() + ((z - code.detach()) * -code.grad).sum()

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` would miss: the optimiser and the moving average."""
        return {"optimiser": self.optimiser.state_dict(), "average": self.average}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.optimiser.load_state_dict(state["optimiser"])
        average = state["average"]
        device = next(self.critic.parameters()).device
        self.average = None if average is None else average.to(device)


def squared_norm(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """L2: ‖z‖², mean over the inputs."""
    return out.z.square().sum(-1).mean()


def confidence(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """Confidence penalty: −H(p(y|z)) = Σ p log p."""
    log_p = out.logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean()


def smoothing(out: Output, x: Tensor, labels: Tensor) -> Tensor:
    """Label smoothing: with β of the target spread over all classes, CE + β (mean_k CE_k − CE)."""
    every_class = -out.logits.log_softmax(-1).mean(-1).mean()
    return every_class - cross_entropy(out, labels)


# The methods


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        label: in the table and the figure.
        strengths: the grid of β.
        penalty: makes what β multiplies, from the settings and the number of pixels.
        stochastic: whether the encoder draws z.
        dropout: whether β is the rate of dropout.
        free_scale: whether z never passes the BatchNorm, which would make the penalty constant.
        published: test error on MNIST in %, with this network, in the paper's Table 2 (the first
            five are those of Alemi et al.).
    """

    label: str
    strengths: tuple[float, ...] = (0.0,)
    penalty: Callable[[Settings, int], Penalty] | None = None
    stochastic: bool = False
    dropout: bool = False
    free_scale: bool = False
    published: float | None = None


def _always(penalty: Penalty) -> Callable[[Settings, int], Penalty]:
    return lambda settings, inputs: penalty


#: From no effect to too much, on digits and on MNIST.
BETAS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_RATES = (0.1, 0.2, 0.3, 0.4, 0.5)
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)

METHODS = {
    "baseline": Method("deterministic", published=1.38),
    "dropout": Method("dropout", _RATES, dropout=True, published=1.34),
    "confidence-penalty": Method("conf. penalty", _WEIGHTS, _always(confidence), published=1.36),
    "label-smoothing": Method("label smoothing", _SHARES, _always(smoothing), published=1.40),
    "vib": Method("VIB", BETAS, _always(variational), stochastic=True, published=1.13),
    "mine": Method("MINE", BETAS, TrainedBound, stochastic=True),
    "mige": Method("MIGE", BETAS, information_gradient, stochastic=True),
    "mige-draws": Method("MIGE, draws", BETAS, drawn_information, stochastic=True, published=1.05),
    "gaussian": Method("Gaussian score", BETAS, gaussian_information, stochastic=True),
    "entropy": Method("entropy", BETAS, entropy, stochastic=True),
    "l2": Method("L2", BETAS, _always(squared_norm), free_scale=True),
}
