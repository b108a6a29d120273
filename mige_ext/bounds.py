"""Variational lower bounds on mutual information, with which gradient estimation is compared.

A *critic* T(x, z) gives each pair a number, which this module calls its *score*. A *bound* compares
the scores of joint pairs from p(x, z) with the scores of marginal pairs from p(x) p(z). The
critic's parameters are trained to maximize the bound:

    >>> import torch
    >>> from mige_ext.bounds import SeparableCritic, mine_f, split_pairs
    >>> critic, x, z = SeparableCritic(5, 3), torch.randn(64, 5), torch.randn(64, 3)
    >>> joint, marginal = split_pairs(critic(x[:, None], z[None, :]))  # all 64² pairs of a batch
    >>> (-mine_f(joint, marginal)).backward()

Bounds reduce the last dimension of the scores and keep the leading dimensions. An ensemble of
critics can therefore be trained at once by :func:`torch.func.vmap`.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from mige_ext import _checks
from mige_ext._precision import at_least_float32


class JointCritic(nn.Module):
    """A perceptron on the concatenated pair, ``T(x, z) = MLP([x, z])``.

    This critic is more expressive than :class:`SeparableCritic`, but every pair takes a pass
    through the network.

    Args:
        x_dim: dimensions of x.
        z_dim: dimensions of z.
        hidden: units of a hidden layer.
        layers: number of hidden layers.

    Raises:
        ValueError: a size is not a positive integer.
    """

    def __init__(self, x_dim: int, z_dim: int, hidden: int = 256, layers: int = 2) -> None:
        super().__init__()
        _check_sizes(x_dim=x_dim, z_dim=z_dim, hidden=hidden, layers=layers)
        self.x_dim, self.z_dim = x_dim, z_dim
        self.first = nn.Linear(x_dim + z_dim, hidden)
        self.rest = nn.Sequential(nn.ReLU(), *_perceptron([hidden] * layers + [1]))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Score pairs of rows.

        Args:
            x: (..., x_dim).
            z: (..., z_dim). Leading dimensions of x and z broadcast: ``critic(x, z)`` scores B
                pairs, and ``critic(x[:, None], z[None, :])`` scores all B² pairs.

        Returns:
            The scores, (...).

        Raises:
            TypeError: x or z is not a floating-point tensor.
            ValueError: the last dimension of x is not x_dim, the last dimension of z is not z_dim,
                or the leading dimensions do not broadcast.
        """
        _check_rows(x, z, self.x_dim, self.z_dim)
        # The first layer is the sum of a linear map of x and a linear map of z. For all B² pairs of
        # a batch, each map takes only B rows.
        x_weight, z_weight = self.first.weight.split([self.x_dim, self.z_dim], dim=1)
        x_half = nn.functional.linear(x, x_weight, self.first.bias)
        return self.rest(x_half + nn.functional.linear(z, z_weight)).squeeze(-1)


class SeparableCritic(nn.Module):
    """The inner product of two perceptrons, ``T(x, z) = f(x) · g(z)``.

    All B² pairs of a batch cost 2B passes through the networks and a matrix product.

    Args:
        x_dim, z_dim, hidden, layers: as for :class:`JointCritic`, for each of the two networks.
        embedding: outputs of f and of g, which bound the rank of T. The optimal critic of
            correlated Gaussians needs d + 2: d for the products x_i z_i, and 2 for ‖x‖² and ‖z‖².

    Raises:
        ValueError: a size is not a positive integer.
    """

    def __init__(
        self, x_dim: int, z_dim: int, hidden: int = 256, layers: int = 2, embedding: int = 32
    ) -> None:
        super().__init__()
        _check_sizes(x_dim=x_dim, z_dim=z_dim, hidden=hidden, layers=layers, embedding=embedding)
        self.x_dim, self.z_dim = x_dim, z_dim
        self.f = nn.Sequential(*_perceptron([x_dim] + [hidden] * layers + [embedding]))
        self.g = nn.Sequential(*_perceptron([z_dim] + [hidden] * layers + [embedding]))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Score pairs of rows, as :meth:`JointCritic.forward` does."""
        _check_rows(x, z, self.x_dim, self.z_dim)
        # For all pairs, einsum computes a matrix product without an array of B × B × embedding.
        return torch.einsum("...e,...e->...", self.f(x), self.g(z))


def split_pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Split the scores of all pairs of a batch into joint and marginal pairs.

    Args:
        scores: ``scores[i, j] = T(x_i, z_j)``, (..., B, B) with B >= 2.

    Returns:
        joint: the diagonal, (..., B).
        marginal: the other elements, (..., B (B − 1)).

    Raises:
        TypeError: scores is not a floating-point tensor.
        ValueError: scores does not have this shape.
    """
    _check_matrix(scores)
    batch = scores.shape[-1]
    # Without its first element, the flattened matrix consists of B − 1 rows of B + 1 elements, of
    # which only the last is on the diagonal.
    rows = scores.flatten(-2).narrow(-1, 1, batch * batch - 1).unflatten(-1, (batch - 1, batch + 1))
    return scores.diagonal(dim1=-2, dim2=-1), rows.narrow(-1, 0, batch).flatten(-2)


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """The Donsker-Varadhan bound, ``I ≥ E_joint[T] − log E_marginal[e^T]``.

    The bound is tight if T is ``log(p(x, z) / (p(x) p(z)))`` plus any constant. On a batch, the
    gradient of the logarithm is biased. :func:`mine` has the same value and a corrected gradient.

    Args:
        joint: scores of joint pairs, (..., B) with B >= 2.
        marginal: scores of marginal pairs, (..., N) with N >= 2.

    Returns:
        The bound in nats, (...), to be maximized.

    Raises:
        TypeError: joint or marginal is not a floating-point tensor.
        ValueError: joint or marginal does not have this shape or is not finite, or the two differ
            in leading dimensions or device. Finiteness is checked only on the CPU and outside
            ``torch.func.vmap`` and ``torch.compile``. Without this check, NaN scores give NaN, and
            infinite scores may give any number.

    Donsker and Varadhan, *Asymptotic evaluation of certain Markov process expectations for large
    time IV*, 1983.
    """
    _check_pairs(joint, marginal)
    return joint.mean(-1) - _log_mean_exp(marginal)


def mine(
    joint: Tensor, marginal: Tensor, average: Tensor | None = None, decay: float = 0.99
) -> tuple[Tensor, Tensor]:
    """MINE: the Donsker-Varadhan bound with the bias-corrected gradient.

    The gradient of the bound is ``E_joint[∇T] − E_marginal[e^T ∇T] / E_marginal[e^T]``. The ratio
    of two estimates from one batch is biased. MINE therefore replaces the denominator by its
    exponential moving average over the batches:

        Z ← decay · Z + (1 − decay) · mean e^T,    gradient = mean ∇T − mean(e^T ∇T) / Z

    The average is kept as log Z.

    Args:
        joint: scores of joint pairs, (..., B) with B >= 2.
        marginal: scores of marginal pairs, (..., N) with N >= 2.
        average: log Z from the previous call, (...); None starts with this batch.
        decay: the weight of the old average, in [0, 1); 0 gives the plain gradient.

    Returns:
        The bound in nats, (...), to be maximized, equal to :func:`donsker_varadhan`; and the new
        log Z, (...), detached, for the next call.

    Raises:
        TypeError, ValueError: as for :func:`donsker_varadhan`; or average is not a finite tensor of
            the shape of the bound, or decay is not in [0, 1).

    Belghazi et al., *Mutual Information Neural Estimation*, ICML 2018, section 3.2.
    """
    _check_pairs(joint, marginal)
    if not (isinstance(decay, Real) and 0 <= decay < 1):
        raise ValueError(f"decay must be in [0, 1), got {decay!r}")
    log_partition = _log_mean_exp(at_least_float32(marginal))
    now = log_partition.detach()  # a step of 1 − decay would be lost in half precision
    if average is not None:
        _checks.require_tensor("average", average)
        _checks.require_shape("average", average, average.shape == now.shape, _checks.shape(now))
        _check_finite(average=average)
    if average is None or decay == 0:
        average = now
    else:
        average = at_least_float32(average.detach())
        average = torch.logaddexp(average + math.log(decay), now + math.log1p(-decay))
    mean = at_least_float32(joint).mean(-1)
    surrogate = mean - torch.exp(log_partition - average)
    return _with_gradient_of(surrogate, mean - log_partition), average


def mine_f(joint: Tensor, marginal: Tensor) -> Tensor:
    """MINE-f: the f-divergence bound (NWJ), ``I ≥ E_joint[T] − E_marginal[e^(T − 1)]``.

    The bound is tight if T is ``1 + log(p(x, z) / (p(x) p(z)))``. For a given critic, the value and
    the gradient are unbiased, with a variance that grows like e^I. Above the square root of the
    dtype's largest number (e^44 in float32), a tangent continues the exponential, so that values
    and squared gradients stay finite.

    Arguments, result and errors are those of :func:`donsker_varadhan`.

    Nguyen, Wainwright and Jordan, *Estimating divergence functionals and the likelihood ratio by
    convex risk minimization*, 2010; Belghazi et al., ICML 2018, section 3.
    """
    _check_pairs(joint, marginal)
    return joint.mean(-1) - _continued_exp(_log_mean_exp(marginal) - 1)


def jsd(joint: Tensor, marginal: Tensor, report: Literal["jsd", "information"] = "jsd") -> Tensor:
    """The Jensen-Shannon objective, ``E_joint[−softplus(−T)] − E_marginal[softplus(T)]``.

    For the optimal critic, ``T = log(p(x, z) / (p(x) p(z)))``, the objective is 2 JSD − log 4 with
    the Jensen-Shannon divergence JSD of p(x, z) and p(x) p(z). The training is stable. The
    objective does not estimate the mutual information, but :func:`mine_f` of T + 1 does.

    Args:
        joint: scores of joint pairs, (..., B) with B >= 2.
        marginal: scores of marginal pairs, (..., N) with N >= 2.
        report: "jsd" for the objective (Hjelm et al.), or "information" for :func:`mine_f` of T + 1
            with the gradient of the objective (Poole et al.).

    Returns:
        The value, (...), to be maximized.

    Raises:
        TypeError, ValueError: as for :func:`donsker_varadhan`; or report is another value.

    Hjelm et al., *Learning deep representations by mutual information estimation and
    maximization*, ICLR 2019, section 3.1; Poole et al., *On variational bounds of mutual
    information*, ICML 2019, section 2.
    """
    _checks.require_choice("report", report, "jsd", "information")
    _check_pairs(joint, marginal)
    softplus = nn.functional.softplus
    objective = -softplus(-joint).mean(-1) - softplus(marginal).mean(-1)
    if report == "jsd":
        return objective
    return _with_gradient_of(objective, mine_f(joint + 1, marginal + 1))


def infonce(scores: Tensor) -> Tensor:
    """InfoNCE, ``I ≥ log B + E_i[T(x_i, z_i) − log Σ_j e^T(x_i, z_j)]``.

    The bound has a low variance, and never exceeds log B.

    Args:
        scores: ``scores[i, j] = T(x_i, z_j)``, (..., B, B) with B >= 2, with the joint pairs on the
            diagonal.

    Returns:
        The bound in nats, (...), to be maximized.

    Raises:
        TypeError: scores is not a floating-point tensor.
        ValueError: scores does not have this shape, or is not finite (:func:`donsker_varadhan` says
            when finiteness is checked).

    van den Oord, Li and Vinyals, *Representation learning with contrastive predictive coding*,
    2018.
    """
    _check_matrix(scores)
    _check_finite(scores=scores)
    log_probability = scores.diagonal(dim1=-2, dim2=-1) - scores.logsumexp(-1)
    return math.log(scores.shape[-1]) + log_probability.mean(-1)


def _perceptron(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers[:-1]


def _log_mean_exp(scores: Tensor) -> Tensor:
    return scores.logsumexp(-1) - math.log(scores.shape[-1])


def _continued_exp(exponent: Tensor) -> Tensor:
    """``e^exponent`` up to the square root of the dtype's largest number, then a tangent."""
    cap = 0.5 * math.log(torch.finfo(exponent.dtype).max)
    tangent = math.exp(cap) * (1 + exponent - cap)
    return torch.where(exponent < cap, exponent.clamp(max=cap).exp(), tangent)


def _with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """A tensor with exactly this value, and with the gradient of the surrogate."""
    return value.detach() + (surrogate - surrogate.detach())


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        _checks.require_count(name, size)


def _check_rows(x: Tensor, z: Tensor, x_dim: int, z_dim: int) -> None:
    for name, rows, width in (("x", x, x_dim), ("z", z, z_dim)):
        _checks.require_tensor(name, rows)
        _checks.require_shape(name, rows, rows.shape[-1:] == (width,), f"(..., {width})")
    try:
        torch.broadcast_shapes(x.shape[:-1], z.shape[:-1])
    except RuntimeError:
        raise ValueError(
            "x and z must have leading dimensions that broadcast, "
            f"got {_checks.shape(x)} and {_checks.shape(z)}"
        ) from None


def _check_matrix(scores: Tensor) -> None:
    _checks.require_tensor("scores", scores)
    fits = scores.dim() >= 2 and scores.shape[-2] == scores.shape[-1] >= 2
    _checks.require_shape("scores", scores, fits, "(..., B, B) with B >= 2")


def _check_pairs(joint: Tensor, marginal: Tensor) -> None:
    for name, scores in (("joint", joint), ("marginal", marginal)):
        _checks.require_tensor(name, scores)
        fits = scores.dim() >= 1 and scores.shape[-1] >= 2
        _checks.require_shape(name, scores, fits, "(..., B) with B >= 2")
    _checks.require_batch("marginal", marginal.shape[:-1], "joint", joint.shape[:-1])
    _checks.require_same_device("marginal", marginal, "joint", joint)
    _check_finite(joint=joint, marginal=marginal)


def _check_finite(**scores: Tensor) -> None:
    # Inside two transforms, such as grad in vmap, require_finite may not notice that a tensor has
    # no values. Reading values then raises RuntimeError, and the check is skipped.
    with suppress(RuntimeError):
        _checks.require_finite(**scores)
