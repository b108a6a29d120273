"""Values of mutual information and entropy in nats: the public functions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _misuse
from mige_ext._precision import no_autocast
from mige_ext.distributed import GlobalBatch, global_batch
from mige_ext.values.candidates import Candidate
from mige_ext.values.classes import class_information
from mige_ext.values.continuous import continuous_entropy, continuous_information
from mige_ext.values.ranks import ranked
from mige_ext.values.records import EntropyValue, InformationValue
from mige_ext.values.samples import in_order, independent_columns, without_copies

#: Largest number of samples that are not divided into disjoint parts.
MOST_SAMPLES = 2000


def estimate_mutual_information(
    x: Tensor,
    z: Tensor,
    *,
    given: Tensor | None = None,
    seed: int = 0,
    group: "dist.ProcessGroup | None" = None,
) -> InformationValue:
    """Value of the mutual information I(x; z) in nats, or of I(x; z | y) with y = ``given``.

    For continuous x and z, ``I = E log(p(x, z) / (p(x) p(z)))`` is estimated in three ways. First,
    the values of each coordinate are replaced by normal quantiles of the same ranks, which does not
    change I.

    - "kernel": the Gaussian formula without its bias, plus the non-Gaussian part from the risks of
      the adaptive score at six noise levels (de Bruijn's identity);
    - "student": the Student copula with the highest likelihood, for variables that are large in the
      same samples without a correlation;
    - "neighbors": the estimate of Kraskov et al. from five nearest neighbors.

    Each estimate is rarely too large, but may miss a part of the dependence. The result is
    therefore "kernel", unless another estimate is significantly better. "student" replaces "kernel"
    if its mean log-likelihood of (x, z) is larger by more than two standard errors of the
    difference. Then "neighbors" replaces the chosen estimate if its value is larger by more than
    two standard errors of the difference.

    If x or z is a category, there are two estimates. "classifier" is a lower bound from a
    cross-validated classifier with Gaussian classes. "neighbors" is the estimate of Ross. With
    ``given``, the result is ``Σ_y p(y) I(x; z | y)``.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> estimate = mige.estimate_mutual_information(x, x + x.flip(0))
        >>> bool((estimate.value - 0.69).abs() < 3 * estimate.standard_error)  # log 2
        True

    The value is not clipped and may be negative. It does not depend on the order of the samples,
    nor on increasing functions of single columns. Equal values in a column get their ranks in
    random order; give a variable with few values as a category instead. Constant columns are left
    out.

    Args:
        x: samples, (..., M, d_x), floating point; or a category, (..., M), integer or boolean.
        z: samples, (..., M, d_z), paired with x, or a category; x and z are not both categories.
            Leading dimensions are independent groups, each with its own value.
        given: a category y, (..., M), integer or boolean; none by default.
        seed: seed of the noise, the folds and the order of equal values. torch's global random
            generator is neither read nor changed.
        group: a process group whose ranks' samples are gathered and form one batch.

    Returns:
        :class:`InformationValue`, without a gradient. :func:`.mutual_information` has the gradient.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite; M, or the number of
            samples of a value of ``given``, is smaller than d_x + d_z + 2 or, with a category,
            smaller than 1.25 (d + classes + 2), where d is the number of columns of the other
            argument; a class has fewer than two samples in a part (see the cost); x and z are both
            categories; x and z determine each other, so that I is infinite.

    Cost:
        Six scores of (x, z), of x and of z: O(M³) up to M = 2000. More samples are divided into
        disjoint parts of at most 2000, and the values of the parts are averaged.

    Kraskov, Stögbauer and Grassberger, "Estimating mutual information" (Phys. Rev. E 69, 2004);
    Ross, "Mutual information between discrete and continuous data sets" (PLoS ONE 9(2), 2014).
    """
    _checks.require_seed("seed", seed)
    arguments = {"x": x, "z": z} if given is None else {"x": x, "z": z, "given": given}
    columns = {name: _as_columns(name, tensor) for name, tensor in arguments.items()}
    batch = global_batch(group, partial(_require_arguments, columns), -2, **columns)
    gathered = _gathered(columns, batch)
    _misuse.warn_of_values(few_values=True, **_continuous(gathered))
    shape = gathered["x"].shape[:-2]
    groups = [_as_groups(tensor) for tensor in gathered.values()]
    with no_autocast(x), torch.device("cpu"):  # the default device of new tensors
        used = [without_copies(*tensors) for tensors in zip(*groups, strict=True)]
        found = [_information(*tensors, seed=seed) for tensors in used]
    return InformationValue(*_stacked(found, shape, x), _fewest(used, groups[0]), _parts(found))


def estimate_entropy(
    z: Tensor, *, seed: int = 0, group: "dist.ProcessGroup | None" = None
) -> EntropyValue:
    """Value of the differential entropy H(z) in nats.

    The estimate "kernel" is ``½ log|2πe Σ| − J`` with the covariance Σ of z. The first term is the
    entropy of a Gaussian, without its bias. The negentropy J follows from the risks of the adaptive
    score at six noise levels (de Bruijn's identity).

    "kernel" may be too large. "neighbors", the estimate of Kozachenko and Leonenko from five
    nearest neighbors, replaces it if J is larger than two standard errors, and "neighbors" is
    smaller than "kernel" by more than two standard errors of the difference.

        >>> import torch, mige_ext as mige
        >>> z = torch.rand(500, 1, generator=torch.Generator().manual_seed(0))
        >>> estimate = mige.estimate_entropy(4 * z)
        >>> bool((estimate.value - 1.386).abs() < 0.1)                          # log 4
        True

    "kernel" satisfies ``H(Az + b) = H(z) + log|det A|`` up to its random noise. For densities
    without a covariance, such as the Cauchy density, the estimate is unreliable.

    Args:
        z: samples, (..., M, d) with M >= d + 2, floating point. Leading dimensions are independent
            groups, each with its own value.
        seed: as for :func:`estimate_mutual_information`.
        group: a process group whose ranks' samples are gathered and form one batch.

    Returns:
        :class:`EntropyValue`, without a gradient. :func:`.entropy` has the gradient.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite, or z has no variance
            in some direction, so that H is −∞.

    Cost:
        Six scores of z: O(M³) up to M = 2000. More samples are divided as in
        :func:`estimate_mutual_information`.
    """
    _checks.require_seed("seed", seed)
    _checks.require_tensor("z", z)
    _require_readable("z", z)
    z = z.detach()
    batch = global_batch(group, partial(_require_arguments, {"z": z}), -2, z=z)
    samples = _gathered({"z": z}, batch)["z"]
    shape = samples.shape[:-2]
    groups = _as_groups(samples).double()
    coarse = torch.finfo(z.dtype).eps if z.dtype.itemsize < 4 else 0.0

    def entropy(z: Tensor, _: Tensor | None, generator: torch.Generator) -> Estimates:
        return continuous_entropy(z, generator, coarse)

    with no_autocast(z), torch.device("cpu"):
        used = [without_copies(each) for each in groups]
        found = [_in_parts(each[0], None, seed, entropy) for each in used]
    _misuse.warn_of_values(few_values=True, z=samples)
    return EntropyValue(*_stacked(found, shape, z), _fewest(used, groups), _parts(found))


# --- arguments ------------------------------------------------------------------------------------


def _is_category(columns: Tensor) -> bool:
    return not columns.dtype.is_floating_point


def _require_readable(name: str, value: Tensor) -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "estimate_mutual_information and estimate_entropy read their samples, so they do not "
            "work under torch.compile: call them outside the compiled function"
        )
    _checks.require_values(name, value)


def _as_columns(name: str, value: object) -> Tensor:
    """The argument without a gradient. A category (..., M) becomes one column of integers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    _require_readable(name, value)
    if value.dtype.is_complex:
        raise TypeError(f"{name} must be real, got {value.dtype}")
    if value.dtype.is_floating_point:
        if name == "given":
            raise TypeError(f"given must have an integer or boolean dtype, got {value.dtype}")
        return value.detach()
    if value.dim() < 1:
        raise ValueError(
            f"{name} must have shape (..., M) as a category, got {_checks.shape(value)}"
        )
    return value.long().unsqueeze(-1)


def _require_arguments(columns: dict[str, Tensor], least: int) -> None:
    continuous = _continuous(columns)
    if not continuous.keys() & {"x", "z"}:
        raise TypeError(
            "x or z must have a floating-point dtype, got integers or booleans for both: only x or "
            "only z may be a category"
        )
    for name, tensor in continuous.items():
        _checks.require_samples(name, tensor, least, may_be_category="x" in columns)
    first, size = next(iter(continuous.items()))
    for name, tensor in columns.items():
        _checks.require_same_device(name, tensor, first, size)
        if tensor.shape[:-1] != size.shape[:-1]:
            got = tensor.shape[:-1] if _is_category(tensor) else tensor.shape
            kind = " (integers are a category)" if name != "given" and _is_category(tensor) else ""
            raise ValueError(
                f"{name} must have the leading dimensions and the M samples of {first}, "
                f"{tuple(size.shape[:-1])}, got {tuple(got)}{kind}"
            )
    for name, tensor in continuous.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite")


def _continuous(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in columns.items() if not _is_category(tensor)}


def _as_groups(samples: Tensor) -> Tensor:
    """(..., M, d) -> (groups, M, d)."""
    return samples.reshape(samples.shape[:-2].numel(), *samples.shape[-2:])


def _gathered(columns: dict[str, Tensor], batch: GlobalBatch | None) -> dict[str, Tensor]:
    if batch is None:
        return columns
    return {name: batch.gather(tensor) for name, tensor in columns.items()}


# --- one group ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """The estimate of one group, of one part of a group, or of one value of ``given``."""

    value: Tensor
    standard_error: Tensor
    gaussian: Tensor
    method: str
    parts: int = 1


#: An estimate and its Gaussian part.
Estimates = tuple[Candidate, Candidate]
#: A function of samples of x, samples of z and a generator.
Estimate = Callable[[Tensor, Tensor | None, torch.Generator], Estimates]


def _information(x: Tensor, z: Tensor, given: Tensor | None = None, *, seed: int) -> _Found:
    """The information of one group."""
    if given is not None:
        return _given(x, z, given[:, 0], seed)
    for name, s, other in (("x", x, z), ("z", z, x)):
        if _is_category(s):
            _require_classes(name, s[:, 0])
            return _in_parts(s, other, seed, _of_category)
    return _in_parts(x, z, seed, _of_pair)


def _require_classes(name: str, s: Tensor) -> None:
    """Require two samples of each class in each part of :func:`_in_parts`."""
    counts = s.unique(return_counts=True)[1]
    parts = math.ceil(len(s) / MOST_SAMPLES)
    if int(counts.min()) < 2 * parts:
        why = f" ({parts} parts of at most {MOST_SAMPLES})" if parts > 1 else ""
        raise ValueError(
            f"{name} must have at least {2 * parts} samples of each class{why}, got "
            f"{int(counts.min())} of the smallest of {len(counts)} classes in {len(s)} samples"
        )


def _given(x: Tensor, z: Tensor, y: Tensor, seed: int) -> _Found:
    """``Σ_y p(y) I(x; z | y)``."""
    found, weights = list[_Found](), list[float]()
    for value in y.unique():
        rows = y == value
        if int(rows.sum()) < 2:
            raise ValueError(
                f"given must have at least 2 samples of each value, got 1 sample of {int(value)}"
            )
        try:
            found.append(_information(x[rows], z[rows], seed=seed))
        except ValueError as error:
            raise ValueError(f"for the samples with given = {int(value)}: {error}") from error
        weights.append(float(rows.double().mean()))
    return _mixed(found, torch.tensor(weights, dtype=torch.float64), len(y))


def _mixed(found: list[_Found], weights: Tensor, m: int = 0) -> _Found:
    """A weighted mean of estimates.

    m > 0 means that the weights are frequencies among m samples. The standard error then includes
    the error of the weights.
    """
    weights = weights.to(found[0].value)
    values, errors, parts = (
        torch.stack([getattr(each, name) for each in found])
        for name in ("value", "standard_error", "gaussian")
    )
    value = (weights * values).sum()
    variance = (weights * errors).square().sum()
    if m:
        variance = variance + (weights * (values - value).square()).sum() / m
    methods = " + ".join(sorted({name for each in found for name in each.method.split(" + ")}))
    most = max(each.parts for each in found)
    return _Found(value, variance.sqrt(), (weights * parts).sum(), methods, most)


def _in_parts(x: Tensor, z: Tensor | None, seed: int, estimate: Estimate) -> _Found:
    """The mean over disjoint parts of at most :data:`MOST_SAMPLES`, of about equal size."""
    m = x.shape[0]
    generator = torch.Generator().manual_seed(int(seed))
    x, z = in_order(x, z)
    parts = math.ceil(m / MOST_SAMPLES)
    rows = torch.randperm(m, generator=generator).to(x.device)
    if _is_category(x):  # Every class is divided evenly among the parts.
        rows = rows[x[rows, 0].argsort(stable=True)]
    found = list[_Found]()
    for part in range(parts):
        chosen = rows[part::parts]
        best, gaussian = estimate(x[chosen], None if z is None else z[chosen], generator)
        found.append(_Found(best.value, best.standard_error, gaussian.value, best.method))
    sizes = torch.tensor([len(rows[part::parts]) for part in range(parts)])
    weights = sizes.double() / m
    mixed = _mixed(found, weights)
    return _Found(mixed.value, mixed.standard_error, mixed.gaussian, mixed.method, parts)


def _nothing(x: Tensor) -> Estimates:
    """The information about a constant, which is 0."""
    terms = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    nothing = Candidate("constant", terms.mean(), terms)
    return nothing, nothing


def _of_pair(x: Tensor, z: Tensor | None, generator: torch.Generator) -> Estimates:
    assert z is not None
    x, z = independent_columns(x), independent_columns(z)
    if x.shape[1] == 0 or z.shape[1] == 0:
        return _nothing(x)
    return continuous_information(ranked(x, generator), ranked(z, generator), generator)


def _of_category(s: Tensor, z: Tensor | None, generator: torch.Generator) -> Estimates:
    assert z is not None
    _, s, counts = s[:, 0].unique(return_inverse=True, return_counts=True)
    z = independent_columns(z)
    if len(counts) == 1 or z.shape[1] == 0:
        return _nothing(z)
    return class_information(s, torch.special.ndtri(ranked(z, generator)), generator)


# --- results --------------------------------------------------------------------------------------


def _fewest(used: Sequence[Sequence[Tensor]], groups: Tensor) -> int:
    """The number of rows without copies, of the group with the fewest."""
    return min((len(tensors[0]) for tensors in used), default=groups.shape[1])


def _parts(found: list[_Found]) -> int:
    return max((each.parts for each in found), default=1)


def _stacked(
    found: list[_Found], shape: torch.Size, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[str, ...]]:
    """Values, standard errors and Gaussian parts, (...), and the methods."""
    empty = torch.empty(0, dtype=torch.float64, device=like.device)
    columns = [
        torch.stack([getattr(each, name) for each in found]) if found else empty
        for name in ("value", "standard_error", "gaussian")
    ]
    value, error, gaussian = (column.reshape(shape) for column in columns)
    return value, error, gaussian, tuple(each.method for each in found)
