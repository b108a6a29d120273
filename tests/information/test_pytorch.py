"""Estimators work with torch.compile, autocast, torch.func, gradient modes and torch.save."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

import mige_ext as mige
from mige_ext import IMQ, SSGE, compat
from tests.support.inputs import normal

FAMILY: dict[str, Any] = {
    "ssge": SSGE(),
    "ssge-imq": SSGE(kernel=IMQ(), calibrate="stein"),
    "ssge-curl-free": SSGE(curl_free=True),
    "tikhonov": mige.Tikhonov(),
    "tikhonov-curl-free": mige.Tikhonov(curl_free=True, kernel=IMQ()),
    "stein": mige.Stein(calibrate="stein"),
    "landweber": mige.Landweber(steps=5),
    "nu-method": mige.NuMethod(steps=5),
    "nu-method-curl-free": mige.NuMethod(steps=5, curl_free=True),
    "gaussian": mige.GaussianScore(),
    "gaussian-qis": mige.GaussianScore(covariance="qis"),
    "adaptive": mige.AdaptiveScore(gaussian="qis"),
    "adaptive-ridge": mige.AdaptiveScore(gaussian="ridge", calibrate="stein"),
    "landmarks": mige.Landmarks(m=16, lam=1e-3),
    "network": mige.SlicedScoreMatching(steps=3, hidden=8),
}
for_each_estimator = pytest.mark.parametrize("estimator", FAMILY.values(), ids=FAMILY.keys())


def for_each_but(name: str) -> pytest.MarkDecorator:
    others = {key: value for key, value in FAMILY.items() if key != name}
    return pytest.mark.parametrize("estimator", others.values(), ids=others.keys())


# Every differentiable function of the library, as a function of z (64, 3).
X = normal(64, 5, seed=7)
SURROGATES: dict[str, Callable[..., Tensor]] = {
    "entropy": mige.entropy,
    "negentropy": lambda z, **e: mige.negentropy(z**3, **e),
    "mutual_information": lambda z, **e: mige.mutual_information(X.to(z.dtype), z, **e),
    "projection": lambda z, **e: mige.mutual_information(
        X.to(z.dtype), z, projection=mige.RandomProjection(k=4), **e
    ),
    "encoder_information": lambda z, **e: mige.encoder_information(z.unflatten(0, (16, 4)), **e),
    "conditional": lambda z, **e: mige.encoder_information(
        z.unflatten(0, (16, 4)), conditional=z.square().sum(-1), **e
    ),
}
for_each_surrogate = pytest.mark.parametrize("f", SURROGATES.values(), ids=SURROGATES.keys())


def gradient(f: Callable[..., Tensor], z: Tensor, **arguments: Any) -> Tensor:
    """The gradient of f at z by ``backward``."""
    z = z.clone().requires_grad_()
    f(z, **arguments).backward()
    assert z.grad is not None
    return z.grad


# --- torch.compile --------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@for_each_but("network")  # It trains in a loop, which raises under torch.compile.
def test_every_estimator_compiles_in_one_graph(estimator: mige.ScoreEstimator) -> None:
    # test_tracing.py compiles surrogates and their gradients, which take any estimator's score.
    z = normal(32, 3, dtype=torch.float32)
    compiled = torch.compile(estimator.score, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z), estimator.score(z), rtol=0, atol=0)


# --- autocast -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@for_each_estimator
def test_autocast_does_not_reach_a_score(
    estimator: mige.ScoreEstimator, dtype: torch.dtype
) -> None:
    z = normal(64, 3, dtype=dtype)
    with torch.autocast("cpu", dtype):
        score = estimator.score(z)
    assert score.dtype == torch.float32
    assert torch.equal(score, estimator.score(z.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_come_in_the_dtype_of_an_autocast_encoder(dtype: torch.dtype) -> None:
    network, x = nn.Linear(5, 3), X.float()
    with torch.autocast("cpu", dtype):
        z = network(x)
        (reached,) = torch.autograd.grad(mige.mutual_information(x, z), z, retain_graph=True)
        (-mige.mutual_information(x, z)).backward()
    assert z.dtype == reached.dtype == dtype
    exact = gradient(SURROGATES["mutual_information"], z.detach().float())
    assert torch.equal(reached, exact.to(dtype))
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


# --- torch.func -----------------------------------------------------------------------------------


@for_each_surrogate
def test_func_grad_is_backward(f: Callable[..., Tensor]) -> None:
    z = normal(64, 3)
    assert torch.equal(grad(f)(z), gradient(f, z))
    assert torch.equal(jacrev(f)(z), gradient(f, z))


def test_func_grad_reaches_both_arguments() -> None:
    x, z = normal(32, 4), normal(32, 3, seed=1)
    for argnums, got in enumerate(grad(mige.mutual_information, argnums=(0, 1))(x, z)):
        leaves = [x.clone().requires_grad_(), z.clone().requires_grad_()]
        mige.mutual_information(*leaves).backward()
        torch.testing.assert_close(got, leaves[argnums].grad, rtol=0, atol=0)


@for_each_estimator
def test_func_grad_takes_every_estimator(estimator: mige.ScoreEstimator) -> None:
    z = normal(64, 3)
    got = grad(lambda z: mige.entropy(z, estimator=estimator))(z)
    assert torch.equal(got, gradient(mige.entropy, z, estimator=estimator))


def test_functional_call_trains_parameters_that_are_arguments() -> None:
    network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return mige.mutual_information(X, functional_call(network, parameters, (X,)))

    got = grad(loss)({name: p.detach() for name, p in network.named_parameters()})
    loss(dict(network.named_parameters())).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad)


@for_each_surrogate
def test_vmap_of_a_surrogate_raises_and_names_the_alternative(f: Callable[..., Tensor]) -> None:
    with pytest.raises(NotImplementedError, match="leading dimensions"):
        vmap(f)(normal(2, 64, 3))


@for_each_but("network")  # It draws random numbers, which torch.func.vmap rejects.
def test_vmap_of_a_score_is_the_score_of_each_group(estimator: mige.ScoreEstimator) -> None:
    z = normal(3, 32, 2)
    torch.testing.assert_close(vmap(estimator.score)(z), estimator.score(z))


@for_each_surrogate
def test_a_second_derivative_raises_in_torch_func_and_in_backward(f: Callable[..., Tensor]) -> None:
    def penalty(z: Tensor) -> Tensor:
        return grad(f)(z).square().sum()

    with pytest.raises(RuntimeError, match="differentiable once"):
        grad(penalty)(normal(64, 3))
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient(penalty, normal(64, 3))


# torch itself calls torch.jit.script, which it deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@for_each_surrogate
def test_a_forward_mode_derivative_raises(f: Callable[..., Tensor]) -> None:
    z = normal(64, 3)
    with pytest.raises(NotImplementedError, match="forward mode"):
        jvp(f, (z,), (z,))


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@for_each_estimator
def test_scores_are_the_same_without_gradients(estimator: mige.ScoreEstimator, mode: Any) -> None:
    z = normal(64, 3).requires_grad_()
    with mode():
        score = estimator.score(z)
        made_here = estimator.score(z * 1)  # an inference tensor
    assert torch.equal(score, estimator.score(z))
    assert torch.equal(score, made_here)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@for_each_estimator
def test_estimators_run_with_deterministic_algorithms(estimator: mige.ScoreEstimator) -> None:
    z = normal(64, 3)
    first, second = (gradient(mige.entropy, z, estimator=estimator) for _ in range(2))
    assert torch.equal(first, second)


@for_each_estimator
def test_anomaly_detection_finds_no_anomaly(estimator: mige.ScoreEstimator) -> None:
    z = normal(64, 3)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        got = gradient(mige.entropy, z, estimator=estimator)
    assert got.isfinite().all()


# --- files ----------------------------------------------------------------------------------------


@for_each_estimator
def test_estimators_and_fits_survive_pickle_and_copy(estimator: Any) -> None:
    z, query = normal(64, 3), normal(5, 3, seed=1)
    assert pickle.loads(pickle.dumps(estimator)) == estimator
    fitted = estimator.fit(z)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert torch.equal(twin.score(query), fitted.score(query))


@for_each_but("landmarks")  # Its statistics are saved instead, see test_landmarks.py.
def test_fits_are_saved_as_tensors_only(estimator: Any) -> None:
    fitted, query = estimator.fit(normal(64, 3)), normal(5, 3, seed=1)
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert torch.equal(type(fitted).from_state_dict(state).score(query), fitted.score(query))


def test_the_estimator_of_the_release_works_with_torch_func_and_inference_mode() -> None:
    estimator = compat.SpectralScoreEstimator(n_eigen_threshold=0.9)
    z = normal(64, 3)
    got = grad(lambda z: compat.entropy_surrogate(estimator, z))(z)
    assert torch.equal(got, gradient(lambda z: compat.entropy_surrogate(estimator, z), z))
    with torch.inference_mode():
        assert torch.equal(estimator.score(z), got * len(z))


def test_the_default_device_does_not_matter() -> None:
    x, z, s = normal(64, 3), normal(64, 2, seed=1), torch.arange(64) % 2

    def results() -> list[float]:
        values = [mige.estimate_mutual_information(first, z).value for first in (x, s)]
        values.append(mige.estimate_entropy(z).value)
        values.append(mige.mutual_information(s, z.clone().requires_grad_(), marginal="own"))
        fitted = mige.SSGE().fit(x)
        again = type(fitted).from_state_dict(fitted.state_dict())
        network = mige.SlicedScoreMatching(steps=2)
        return [v.item() for v in (*values, again.score(x).sum(), network.score(x).sum())]

    expected = results()
    torch.set_default_device("meta")
    try:
        assert results() == expected
    finally:
        torch.set_default_device(None)


def test_values_in_a_subclass_of_tensor_are_checked() -> None:
    class Named(torch.Tensor):
        pass

    z = normal(16, 2)
    z[3, 1] = torch.nan
    with pytest.raises(ValueError, match="z must be finite"):
        mige.entropy(z.as_subclass(Named).requires_grad_())


def test_code_information_has_no_forward_mode_derivative() -> None:
    x, z = normal(16, 3), normal(16, 2, seed=1)
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jacfwd(lambda t: mige.code_information(x, t, noise=0))(z)
