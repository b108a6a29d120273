"""The results of the functions of this package."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class InformationValue:
    """An estimate of mutual information in nats, one value for each group of samples, (...)."""

    value: Tensor  #: the estimate, (...), float64, without a gradient; may be negative
    #: standard error of the mean over the samples, (...); does not include a bias of the method
    standard_error: Tensor
    #: the Gaussian part, (...): the information of Gaussians with the same correlations; for a
    #: category, the bound of the classifier with one covariance for all classes
    gaussian: Tensor
    #: the method of each group, in row-major order: "kernel", "student" or "neighbors", for a
    #: category "classifier" or "neighbors", and "constant" if x or z does not vary. If the method
    #: differs between parts or values of ``given``, " + " joins the names.
    methods: tuple[str, ...]
    samples_used: int  #: rows without copies, on all ranks; the least number of any group
    parts: int  #: number of disjoint parts into which the samples were divided


@dataclass(frozen=True, eq=False)
class EntropyValue:
    """An estimate of differential entropy in nats, one value for each group of samples, (...)."""

    value: Tensor  #: the estimate, (...), float64, without a gradient; negative for small z
    standard_error: Tensor  #: standard error of the mean over the samples, (...)
    gaussian: Tensor  #: the Gaussian part, (...): entropy of the Gaussian with the covariance of z
    methods: tuple[str, ...]  #: as for :class:`InformationValue`
    samples_used: int  #: rows without copies, on all ranks; the least number of any group
    parts: int  #: number of disjoint parts into which the samples were divided
