"""Scores and what they are made of: eigendecomposition, whitening, SSGE, the adaptive score."""

from torch import Tensor

from mige_ext._checks import require_count
from mige_ext.ops._call import call, real


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition ``K = U diag(λ) Uᵀ`` of symmetric matrices, groups in parallel.

    The CPU uses LAPACK's divide and conquer, one matrix a thread; ``torch.linalg.eigh`` computes
    the matrices of a batch one after the other. CUDA uses pivoted Cholesky and one-sided Jacobi
    (Veselić and Hari 1989) with a warp, a block or many blocks for a matrix, and does not wait for
    the device. Above M = 2048 it uses torch's solver, which waits and treats NaN as torch does. The
    result is not differentiable; ``torch.linalg.eigh`` is.

    Args:
        k: symmetric matrices, (..., M, M); only the lower triangle is read.

    Returns:
        eigenvalues, (..., M), ascending, and eigenvectors, (..., M, M), in the columns.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        About 9M³ flop a matrix on the CPU, where one matrix runs on one thread, so its bits do
        not depend on the number of threads; 6 to 8 sweeps of 5M³ flop on CUDA, 8M³ where
        many blocks share a matrix (M > 239 in float32 on an H100).
    """
    return call("eigh", k)


def ssge(
    x: Tensor,
    bandwidth: Tensor | None = None,
    *,
    quantile: float = 0.5,
    multiplier: float = 1.0,
    threshold: float = 0.99,
    rank: int | None = None,
    power: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Spectral Stein Gradient Estimator as one operator: ``−U_J Λ_J^{−power} U_Jᵀ H``.

    ``power=1`` gives the score ``∇ log q`` at the samples, ``power=2`` the coefficients W of its
    Nyström extension ``∇ log q(z) = k(z, X) W`` (:func:`rbf_product`). Scale and offset of the
    samples are removed first, so they cost neither accuracy nor range. A group whose samples are
    all equal has score 0, and rank 0 unless ``bandwidth`` is given. The result is not
    differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        bandwidth: σ > 0 of each group, (...); from ``quantile`` and ``multiplier`` if not given.
        quantile: of the pairwise distances, in (0, 1]; see :func:`distance_quantile`.
        multiplier: σ = multiplier × quantile of the distances.
        threshold: J is the smallest number of leading eigenvalues whose sum reaches this fraction
            of trace(K); in (0, 1].
        rank: J itself, in [1, M], instead of ``threshold``. In both cases eigenvalues below
            M ε λ_max are rounding errors and are not kept.
        power: 1 or 2.

    Returns:
        the result, (..., M, d); the eigenvalues of K, (..., M), ascending; σ, (...); J, (...),
        int64.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        3.5M²d + 4MJd + about 9M³ flop; memory about 4M² + O(Md). Shi, Sun, Zhu (ICML 2018).
    """
    if rank is not None:
        require_count("rank", rank, or_none=True)
        rank = min(int(rank), 2**63 - 1)
    require_count("power", power)
    numbers = real("quantile", quantile), real("multiplier", multiplier)
    return call("ssge", x, bandwidth, *numbers, real("threshold", threshold), rank, int(power))


def ridge_whitening(x: Tensor, *, factor: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Whitening of the samples with the ridge that fits them best: ``z = (x − mean) W``.

    With V the standardized samples and R = VᵀV/M their correlations, ``W = D^{−1} (R + τI)^{−1/2}``
    with D the standard deviations, so that ``−z Wᵀ`` is the score of the Gaussian with covariance
    ``D (R + τI) D``. τ is ``factor`` times the minimiser of the leave-one-out Hyvärinen objective
    of that score, which has a closed form: with c₁ = M/(M−1), c₂ = M/(M−1)²,
    ``A = (c₁R + τI)^{−1}``, q_i = v_iᵀ A v_i and q2_i = v_iᵀ A² v_i it is the mean of

        ½ c₁² q2_i / (1 − c₂ q_i)² − tr A − c₂ q2_i / (1 − c₂ q_i)

    over 26 values of τ from 1e-4 to 10; a parabola interpolates between them. A constant column has
    a row of zeros in W and does not count in the trace. If M − 1 is at least 5/4 of the number of
    varying columns, a direction without variance does not count either and is mapped to 0. The
    results are not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        factor: positive; 1 gives the best Gaussian score, 0.1, a weaker shrinkage, the coordinates
            of :func:`adaptive_score`.

    Returns:
        the mean, (..., d); W, (..., d, d); τ, (...).

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        4Md² + about 11d³ flop; memory O(Md + d²).
    """
    return call("ridge_whitening", x, real("factor", factor))


def adaptive_score(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A score without settings: Tikhonov's filter on whitened samples, with the λ of least risk.

    The samples are whitened (:func:`ridge_whitening`). With the IMQ kernel φ(s) = (1 + s/σ²)^{−1/2}
    of the median bandwidth, K = φ and H its gradient sum, the candidates are

        F = s₀ − (K + λM I)^{−1} (K s₀ + H),   s₀ = −base · z

    with base 1 (a correction of the Gaussian score) or 0. The risk of a candidate is
    ``E‖F − s‖²/2`` up to a constant. By Stein's identity on the joint law of the batch it is the
    mean of ``r_i = ½‖R_i‖² − z_i·R_i + div_i R`` with R = F + z; the divergence includes the
    derivatives of K, H and the inverse. The result is the candidate with the least mean + standard
    error, or the Gaussian score, R = 0, if no candidate is below 0. The search over λ starts at the
    decade next to 1/M, goes by decades as long as the bound falls, and then tries half a decade,
    within 0.1 … 1e-5. Directions without variance and constant columns do not count
    (:func:`ridge_whitening`). The results are not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.

    Returns:
        scores, (..., M, d), zero for a group of equal samples; and for each group, (...): λ,
        infinite for the Gaussian score; base, int64; the risk less that of the Gaussian score and
        its standard error; σ, in whitened units.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        M³ + 10M²r flop for each of the 3 to 5 λ that are tried, with r = min(M, d), and one
        eigendecomposition of r × r; memory about 4M² + O(Md).
    """
    return call("adaptive_score", x)
