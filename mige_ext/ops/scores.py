"""Operators that compute scores: eigendecomposition, whitening, SSGE, Student, adaptive."""

from torch import Tensor

from mige_ext._checks import require_count
from mige_ext.ops._call import call, real


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition ``K = U diag(λ) Uᵀ`` of symmetric matrices, in parallel over the groups.

    The CPU uses LAPACK's divide and conquer, with one thread for each matrix. Up to M = 2048, CUDA
    uses pivoted Cholesky and one-sided Jacobi (Veselić and Hari 1989), and does not wait for the
    device. Above M = 2048, CUDA uses torch's solver, which waits for the device. The result is not
    differentiable; ``torch.linalg.eigh`` has a derivative.

    In float32 the CUDA kernels refine the result with sums in float64. Eigenvalues then have errors
    of at most 1e-7 of the largest magnitude, and UᵀU − I has elements of at most 2e-7. Eigenvalues
    that are closer to each other than ‖KU − UΛ‖ have errors of up to this norm.

    Args:
        k: symmetric matrices, (..., M, M), with finite elements; only the lower triangle
            determines the result. On the CPU, denormal elements count as 0.

    Returns:
        the eigenvalues, (..., M), ascending, and the eigenvectors, (..., M, M), as columns.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        About 9M³ flop for each matrix on the CPU. On CUDA, 6 to 8 sweeps of 5M³ flop, or of 8M³
        flop if many thread blocks decompose one matrix (M > 240 in float32 on an H100), and a
        refinement of 3M³ flop in float64 and 2M³ in the dtype of k, with 3M² values of memory.
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
    """The Spectral Stein Gradient Estimator as one operator, ``−U_J Λ_J^{−power} U_Jᵀ H``.

    ``power=1`` gives the score ``∇ log q`` at the samples. ``power=2`` gives the coefficients W of
    the Nyström extension ``∇ log q(z) = k(z, X) W`` (:func:`rbf_product`). Scale and offset of the
    samples cost neither accuracy nor range. A group of equal samples has score 0, and J = 0 if
    ``bandwidth`` is not given. The results are not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        bandwidth: σ > 0 of each group, (...); by default ``multiplier`` × a quantile of the
            pairwise distances (:func:`distance_quantile`).
        quantile: the quantile, in (0, 1]; 0.5 is the median.
        multiplier: positive.
        threshold: J is the smallest number of leading eigenvalues whose sum reaches this fraction
            of trace(K); in (0, 1].
        rank: J itself, in [1, M], instead of ``threshold``. Eigenvalues below min(M, 64) ε λ_max
            are rounding errors, which are never kept.
        power: 1 or 2.

    Returns:
        the score or W, (..., M, d); the eigenvalues of K, (..., M), ascending; σ, (...); J, (...),
        int64.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        3.5M²d + 4MJd flop and one :func:`eigh`; about 4M² + O(Md) values of memory.

    Shi, Sun and Zhu, "A spectral approach to gradient estimation for implicit distributions" (ICML
    2018).
    """
    if rank is not None:
        require_count("rank", rank, or_none=True)
        rank = min(int(rank), 2**63 - 1)
    require_count("power", power)
    numbers = real("quantile", quantile), real("multiplier", multiplier)
    return call("ssge", x, bandwidth, *numbers, real("threshold", threshold), rank, int(power))


def ridge_whitening(x: Tensor, *, factor: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Whitening of the samples with the ridge that fits them best: ``z = (x − mean) W``.

    Let V be the standardized samples, D the diagonal matrix of the standard deviations, and
    R = VᵀV/M the correlations. Then ``W = D^{−1} (R + τI)^{−1/2}``, and ``−z Wᵀ`` is the score of
    the Gaussian with covariance ``D (R + τI) D``.

    τ is ``factor`` times the minimizer of the leave-one-out Hyvärinen objective of this score. Let
    c₁ = M/(M−1), c₂ = M/(M−1)², ``A = (c₁R + τI)^{−1}``, q_i = v_iᵀ A v_i and q2_i = v_iᵀ A² v_i.
    The objective is the mean over the samples of

        ½ c₁² q2_i / (1 − c₂ q_i)² − tr A − c₂ q2_i / (1 − c₂ q_i),

    evaluated at 26 values of τ from 1e-4 to 10. A parabola interpolates the minimum.

    A constant column has a row of zeros in W and does not count in the trace. If M − 1 is at least
    5/4 of the number of varying columns, a direction without variance does not count either and is
    mapped to 0. The results are not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        factor: positive; 1 gives the best Gaussian score. None gives the weak ridge of
            :func:`adaptive_score`, ``0.1 + 0.1 min(1, 4d/M)²``, which shortens gradients less. Its
            d does not count directions that are mapped to 0.

    Returns:
        the mean, (..., d); W, (..., d, d); τ, (...).

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        4Md² + about 11d³ flop; O(Md + d²) memory.
    """
    return call("ridge_whitening", x, None if factor is None else real("factor", factor))


def student_score(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The score of a Student distribution, as its departure from the Gaussian score.

    In whitened coordinates (:func:`ridge_whitening`) the Gaussian score is −z. Let ν be the degrees
    of freedom, μ the location, P^{−1} the covariance and u = z − μ. The Student score is

        s₀ = −w P u,   w = (ν + e) / (ν − 2 + uᵀPu),

    with the mean e of ‖z‖². Without a ridge e is d. The ridge makes ‖z‖² smaller, and with d in
    place of e almost all weights would be larger than 1. The *departure* is R = s₀ + z, with the
    divergence ``d − w tr P + 2 w ‖Pu‖² / (ν − 2 + uᵀPu)``. As in :func:`adaptive_score`, the *risk*
    of a choice of ν, μ and P is the mean of ``½‖R_i‖² − z_i·R_i + div R(z_i)``, an estimate of half
    the mean squared error up to a constant. The Gaussian score has risk 0.

    1. With μ = 0 and P = I, the first ν is chosen among 3, 4, 6, 10, 20 and 50 by the lowest sum of
       the risk and its standard error. If no sum is below 0, or if M − 1 < 1.25 d, ν is infinite,
       and the departure is 0.
    2. Four EM steps fit μ and P. A step computes the weights w_i from the current μ and P, then
       ``μ = Σ w_i z_i / Σ w_i`` and ``P = (Σ w_i u_i u_iᵀ / M + E)^{−1}``. E = τ (R + τI)^{−1} is
       the ridge in whitened coordinates, with the correlations R of :func:`ridge_whitening`.
    3. The final ν is the one with the lowest risk for the final μ and P. If no risk is below 0, ν
       is infinite, and the departure is 0.

    Directions without variance and constant columns do not count in d and in tr P
    (:func:`ridge_whitening`). The results are not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.

    Returns:
        the departure in the units of a score of x, (..., M, d), and the divergence in whitened
        coordinates, (..., M), for ``start`` and ``start_divergence`` of :func:`adaptive_score`;
        ν, (...); and the weights w_i of the last step, (..., M), which are 1 for an infinite ν.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        The cost of :func:`ridge_whitening`, and 4r³ + 20Mr² flop with r = min(M, d) for a finite ν;
        O(Md + r²) memory.

    Liu and Rubin, "ML estimation of the t distribution using EM and its extensions, ECM and ECME"
    (Statistica Sinica 1995), for the EM steps.
    """
    return call("student_score", x)


def adaptive_score(
    x: Tensor, start: Tensor | None = None, start_divergence: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A score without settings: Tikhonov's filter on whitened samples, which chooses λ itself.

    The samples are whitened (:func:`ridge_whitening`). Let K be the Gram matrix of the IMQ kernel
    φ(s) = (1 + s/σ²)^{−1/2} with the median bandwidth, and H its gradient sum. The candidates are

        F = s₀ − (K + λM I)^{−1} (K s₀ + H),   s₀ = −base · z

    with base 1 (a correction of the Gaussian score) or base 0. The risk of a candidate is
    ``E‖F − s‖²/2 − E‖−z − s‖²/2`` for the true score s, so the Gaussian score −z has risk 0.
    Stein's identity estimates the risk by the mean of ``r_i = ½‖R_i‖² − z_i·R_i + div_i R`` with
    R = F + z. The divergence takes R as a function of all samples, and includes the derivatives of
    K, H and the inverse.

    The bound of a candidate is its risk plus the standard error of the risk. The result is the
    candidate with the lowest bound, or the Gaussian score (R = 0) if no bound is below 0. The
    search over λ in [1e-5, 0.1] starts at the power of ten next to 1/M, changes λ by factors of 10
    as long as the bound falls, and then tries the λ half a decade towards the better neighbor.

    The *departure* of a score is its difference from the Gaussian score −z. If ``start`` is given,
    base 2 corrects ``s₀ = −z + R₀`` with the departure R₀ = ``start`` of another score, and s₀
    itself (R = R₀) is a candidate too. The divergence of base 2 takes R₀ at a sample as a function
    of this sample alone. It has the terms of the divergence of base 1, and the additional term
    ``(1 − (BK)_ii) δ_i``, where ``B = (K + λM I)^{−1}`` and δ = ``start_divergence``. A group whose
    start and divergence are all 0 has no start.

    The estimate of the risk assumes independent samples. If two samples nearly coincide, the
    estimated risk of a small λ is far too low. λ, base and σ are therefore chosen without one
    sample of each pair that coincides up to rounding. One sample of each near-coincident pair is
    left out too, if there are more such pairs than among independent samples
    (``csrc/common/thinning_rule.h``). The score is then computed from all samples. If samples are
    left out and fewer than 8 remain, the result is the Gaussian score.

    Directions without variance and constant columns do not count (:func:`ridge_whitening`). The
    results are not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        start: the departure R₀ at the samples, (..., M, d), in the units of a score of x, such as
            the departure of another call. With d > M, only the part in the span of the samples
            counts.
        start_divergence: δ_i, the divergence of R₀ in whitened coordinates with respect to sample
            i, (..., M). For z = (x − mean) A the divergence is ``Σ_ab ∂R₀_a/∂x_b C_ab``, where
            C = (A Aᵀ)^{−1} is the covariance with its ridge.

    Returns:
        nine tensors:

        - the scores, (..., M, d), zero for a group of equal samples;
        - λ, (...), infinite for a start without a correction;
        - the base, (...), int64;
        - the risk, (...), which is 0 for the Gaussian score;
        - the standard error of the risk, (...);
        - σ in whitened units, (...);
        - the fraction of the samples that the choice left out, (...);
        - the departure of the scores, (..., M, d), in the units of a score of x;
        - the divergence div_i R in whitened coordinates, (..., M). A sample that was left out has
          the divergence of the nearest sample that was kept.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        With r = min(M, d), M³ + 10M²r flop for each λ that is tried (usually 3 to 5, at most 6),
        one eigendecomposition of r × r, and about 4M² + O(Md) values of memory. A start adds 4M²r
        flop to each λ. If samples are left out, the cost of one λ is added, and on the CPU up to
        4M² values of memory.
    """
    return call("adaptive_score", x, start, start_divergence)


def adaptive_student_score(
    x: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """:func:`adaptive_score` with the start that :func:`student_score` gives, in one call.

    The results are those of ``adaptive_score(x, *student_score(x)[:2])`` up to rounding. On the CPU
    both steps use the same whitening. If ν is infinite, the Student score then takes little time.

    Args:
        x: samples, (..., M, d) with M >= 2.

    Returns:
        eleven tensors: the nine tensors of :func:`adaptive_score`, then ν, (...), and the weights
        of the samples, (..., M), as :func:`student_score` gives them.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        The cost of :func:`adaptive_score`. A finite ν adds 4r³ + 16Mr² flop with r = min(M, d), and
        4M²r flop to each λ. CUDA computes the whitening twice.
    """
    return call("adaptive_student_score", x)
