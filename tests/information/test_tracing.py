"""All functions run on fake CUDA tensors and in torch.compile, so they read no value of a tensor.

A branch on a value or an ``.item()`` stalls a stream on CUDA and cannot be captured in a CUDA
graph. On a fake tensor both raise an error, so no GPU is needed to find them.

The CPU build of torch cannot index a fake CUDA tensor (``narrow``, ``select`` and ``unsqueeze``
work), and cannot differentiate it. The tests of gradients therefore call forward and backward
directly, or use the meta device.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import mige_ext as mige
from mige_ext import SSGE, bounds, compat
from mige_ext._gradients import information_with
from mige_ext._precision import at_least_float32
from mige_ext._surrogate import Surrogate
from tests.support.inputs import normal

# These calls are misuse on purpose. test_warnings.py tests the warnings.
pytestmark = [
    pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning"),
    pytest.mark.usefixtures("fresh_compiler"),
]

ESTIMATORS: dict[str, mige.ScoreEstimator] = {
    "ssge": SSGE(),
    "ssge-calibrated": SSGE(calibrate="stein"),
    "ssge-rank": SSGE(rank=3, bandwidth=2.0),
    "ssge-rule": SSGE(bandwidth=mige.Bandwidth(0.3, 2.0)),
    "adaptive-qis": mige.AdaptiveScore(gaussian="qis"),
    "adaptive-calibrated": mige.AdaptiveScore(gaussian="qis", calibrate="stein"),
    "gaussian": mige.GaussianScore(),
    "gaussian-qis": mige.GaussianScore(covariance="qis"),
    "gaussian-mle": mige.GaussianScore(covariance="mle"),
    "imq": SSGE(kernel=mige.IMQ()),
    "curl-free": SSGE(curl_free=True),
    "tikhonov": mige.Tikhonov(calibrate="stein"),
    "tikhonov-curl-free": mige.Tikhonov(curl_free=True, kernel=mige.IMQ()),
    "stein": mige.Stein(),
    "landweber": mige.Landweber(steps=5),
    "nu-method": mige.NuMethod(steps=3),
    "nu-method-curl-free": mige.NuMethod(steps=3, curl_free=True),
    "landmarks": mige.Landmarks(m=8, calibrate="stein"),
    "tikhonov-landmarks": mige.Landmarks(lam=0.1, bandwidth=mige.Bandwidth(0.3)),
    "release": compat.SpectralScoreEstimator(n_eigen_threshold=0.9),
}


def each_critic(x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    x, z = x.float().unsqueeze(2), z.float().unsqueeze(1)
    pairs = []
    for critic in (bounds.JointCritic(5, 4, hidden=8), bounds.SeparableCritic(5, 4, hidden=8)):
        # ``critic.to(device)`` fails, because fake parameters cannot be swapped or initialized.
        there = {n: torch.zeros(p.shape, device=x.device) for n, p in critic.named_parameters()}
        pairs.append(bounds.split_pairs(torch.func.functional_call(critic, there, (x, z))))
    return tuple(bounds.mine_f(joint, marginal) for joint, marginal in pairs)


def entropy_of(x: Tensor, z: Tensor) -> Tensor:
    return compat.entropy_surrogate(compat.SpectralScoreEstimator(3), z)


# Every function that takes an estimator. Arguments: the estimator, x (2, 16, 5), z (2, 16, 4).
FUNCTIONS: dict[str, Callable[[mige.ScoreEstimator, Tensor, Tensor], Tensor]] = {
    "entropy": lambda e, x, z: mige.entropy(z, estimator=e),
    "mutual_information": lambda e, x, z: mige.mutual_information(x, z, estimator=e),
    "encoder_information": lambda e, x, z: mige.encoder_information(
        z.unflatten(1, (4, 4)), estimator=e
    ),
    "score": lambda e, x, z: e.score(z),
}
for_each_estimator = pytest.mark.parametrize("name", ESTIMATORS)

# Every other public function. Arguments: x (2, 16, 5), z (2, 16, 4).
CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "negentropy": lambda x, z: mige.negentropy(z),
    "negentropy-qis": lambda x, z: mige.negentropy(
        z, estimator=mige.AdaptiveScore(gaussian="qis", calibrate="stein")
    ),
    "matched": lambda x, z: mige.mutual_information(x, z, marginal="matched"),
    "code_information": lambda x, z: mige.code_information(x, z),
    "projection": lambda x, z: mige.mutual_information(x, z, projection=mige.RandomProjection(k=3)),
    "conditional": lambda x, z: mige.encoder_information(z, conditional=z.sum((-2, -1))),
    "fit": lambda x, z: SSGE().fit(z).score(),
    "fit-query": lambda x, z: SSGE(calibrate="stein").fit(z).score(z.narrow(-2, 0, 7)),
    "fit-bandwidth": lambda x, z: SSGE(bandwidth=2.0).fit(z).score(z.narrow(-2, 0, 7)),
    "landmarks-query": lambda x, z: mige.Landmarks(m=8).fit(z).score(z.narrow(-2, 0, 7)),
    "fit-adaptive": lambda x, z: (
        mige.AdaptiveScore(gaussian="qis").fit(z).score(z.narrow(-2, 0, 7))
    ),
    "fit-cut-off": lambda x, z: SSGE(kernel=mige.IMQ(), curl_free=True).fit(z).score(),
    "fit-curl-free": lambda x, z: (
        mige.Tikhonov(lam=0.1, curl_free=True, calibrate="stein").fit(z).energy(z.narrow(-2, 0, 7))
    ),
    "landweber": lambda x, z: mige.Landweber(steps=3, kernel=mige.IMQ()).fit(z).score(z),
    "nu-method": lambda x, z: mige.NuMethod(steps=3, curl_free=True, bandwidth=2.0).fit(z).score(z),
    "qis": lambda x, z: mige.GaussianScore(covariance="qis").fit(z).score(z.narrow(-2, 0, 7)),
    "mle": lambda x, z: mige.GaussianScore(covariance="mle").fit(z).energy(z.narrow(-2, 0, 7)),
    "imq": lambda x, z: mige.IMQ()(at_least_float32(z), bandwidth=1.3),
    "diagnose": lambda x, z: vars(SSGE().diagnose(z))["rank"],
    "rbf": lambda x, z: mige.RBF()(z, bandwidth=1.3),
    "rbf-pair": lambda x, z: mige.RBF()(z, z.narrow(-2, 0, 7), bandwidth=1.3),
    "phi": lambda x, z: (mige.RBF().phi(z, 1.3), mige.RBF().dphi(z, 1.3, 2)),
    "bandwidth": lambda x, z: mige.Bandwidth(0.3)(z),
    "donsker_varadhan": lambda x, z: bounds.donsker_varadhan(x.select(-1, 0), z.flatten(-2)),
    "mine": lambda x, z: bounds.mine(x.select(-1, 0), z.flatten(-2), x.select(-1, 0).select(-1, 0)),
    "mine_f": lambda x, z: bounds.mine_f(x.select(-1, 0), z.flatten(-2)),
    "jsd": lambda x, z: bounds.jsd(x.select(-1, 0), z.flatten(-2), report="information"),
    "critics": each_critic,
    "infonce": lambda x, z: bounds.infonce(z @ z.mT),
    "release-query": lambda x, z: compat.SpectralScoreEstimator(3, eta=0.1).compute_gradients(
        z, z.narrow(-2, 0, 7)
    ),
    "release-entropy": entropy_of,
    "release-information": lambda x, z: compat.MutualInformationGradientEstimator(
        n_eigen_threshold=0.9
    )(x, z),
}


def tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for v in value for t in tensors(v)]


# --- fake tensors ---------------------------------------------------------------------------------


for_each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def assert_runs_on_fake_cuda_tensors(
    call: Callable[[Tensor, Tensor], Any], dtype: torch.dtype
) -> None:
    """The results have the shapes and dtypes of results on the CPU, and are on the GPU."""
    real = call(normal(2, 16, 5, dtype=dtype), normal(2, 16, 4, dtype=dtype, seed=1))
    with FakeTensorMode():
        x, z = (torch.empty(2, 16, d, device="cuda", dtype=dtype) for d in (5, 4))
        fake = call(x, z)
    for f, r in zip(tensors(fake), tensors(real), strict=True):
        assert f.device.type == "cuda"
        assert (f.shape, f.dtype) == (r.shape, r.dtype)


@for_each_dtype
@for_each_estimator
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_estimator_runs_on_fake_cuda_tensors(
    function: str, name: str, dtype: torch.dtype
) -> None:
    assert_runs_on_fake_cuda_tensors(partial(FUNCTIONS[function], ESTIMATORS[name]), dtype)


@for_each_dtype
@pytest.mark.parametrize("call", CALLS)
def test_every_public_function_runs_on_fake_cuda_tensors(call: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and call.startswith(("rbf", "phi")):
        dtype = torch.float64  # Kernel functions accept float32 and float64 only.
    assert_runs_on_fake_cuda_tensors(CALLS[call], dtype)


@pytest.mark.parametrize("needs", [(True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_information_and_its_gradient_run_on_fake_cuda_tensors(
    estimator: mige.ScoreEstimator, needs: tuple[bool, bool]
) -> None:
    # Forward and backward are called directly, because torch's backward pass asks for the streams
    # of the missing device.
    saved: list[Tensor] = []
    context = SimpleNamespace(
        needs_input_grad=(False, *needs, False, False),
        save_for_backward=lambda *t: saved.extend(t),
        mark_non_differentiable=lambda *t: None,
        set_materialize_grads=lambda _: None,
    )
    with FakeTensorMode():
        x = torch.empty(2, 16, 5, device="cuda")
        z = torch.empty(2, 16, 4, device="cuda", dtype=torch.bfloat16)
        compute = information_with("own", estimator, *needs)
        outputs = Surrogate.forward(compute, x, z, None, None)
        value, *_ = outputs
        assert value.shape == () and value.device.type == "cuda"
        Surrogate.setup_context(context, (compute, x, z, None, None), outputs)
        context.saved_tensors = tuple(saved)
        _, *grads = Surrogate.backward(context, value, None, None)
    assert grads[2:] == [None, None]  # for the two anchors (mige_ext/_surrogate.py)
    for needed, argument, grad in zip(needs, (x, z), grads[:2], strict=True):
        assert (grad is not None) == needed
        if grad is not None:
            assert (grad.shape, grad.dtype) == (argument.shape, argument.dtype)
            assert grad.device.type == "cuda"


DIFFERENTIABLE = [
    name for name in CALLS if name.startswith(("negentropy", "projection", "conditional", "rbf",
    "donsker", "mine", "jsd", "critics", "infonce", "release-e", "release-i"))
]  # fmt: skip


def assert_gradients_run_without_values(call: Callable[[Tensor, Tensor], Any]) -> None:
    x = torch.empty(2, 16, 5, device="meta", requires_grad=True)
    z = torch.empty(2, 16, 4, device="meta", requires_grad=True)
    differentiable = [t for t in tensors(call(x, z)) if t.requires_grad]
    sum(t.sum() for t in differentiable).backward()  # type: ignore[union-attr]
    reached = [t.grad.shape == t.shape for t in (x, z) if t.grad is not None]
    assert reached and all(reached)


@for_each_estimator
@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f != "score"])
def test_gradients_with_every_estimator_run_without_values(function: str, name: str) -> None:
    assert_gradients_run_without_values(partial(FUNCTIONS[function], ESTIMATORS[name]))


@pytest.mark.parametrize("call", DIFFERENTIABLE)
def test_gradients_of_every_public_function_run_without_values(call: str) -> None:
    assert_gradients_run_without_values(CALLS[call])


# --- torch.compile --------------------------------------------------------------------------------


PROJECTION = mige.RandomProjection(k=8)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))


def surrogate(network: nn.Module, x: Tensor) -> Tensor:
    return -mige.mutual_information(x, network(x), projection=PROJECTION)


def trained(
    loss: Callable[[nn.Module, Tensor], Tensor], steps: int = 3
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and parameters of a short training."""
    network = encoder()
    # The last bias shifts all z, so its exact gradient is 0. Adam would make steps of its rounding
    # errors.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-1)
    losses = []
    for seed in range(steps):
        optimizer.zero_grad()
        value = loss(network, normal(64, 20, dtype=torch.float32, seed=seed))
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return losses, [p.detach() for p in network.parameters()]


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_training_step_equals_the_eager_one(backend: str) -> None:
    compiled = torch.compile(surrogate, fullgraph=True, backend=backend)
    losses, parameters = trained(compiled)
    eager_losses, eager_parameters = trained(surrogate)
    # Inductor rounds the encoder differently, and the score magnifies rounding errors.
    tolerance = 0.0 if backend == "aot_eager" else 1e-3
    torch.testing.assert_close(losses, eager_losses, rtol=tolerance, atol=0)
    torch.testing.assert_close(parameters, eager_parameters, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "loss",
    [
        lambda network, x: -mige.entropy(network(x), estimator=SSGE(calibrate="stein")),
        lambda network, x: mige.encoder_information(network(x).unflatten(0, (16, 4))),
        lambda network, x: -mige.negentropy(network(x)),
        lambda network, x: -mige.entropy(network(x), estimator=mige.Landmarks(m=32)),
        lambda network, x: bounds.infonce(network(x) @ network(x).mT),
        lambda network, x: compat.MutualInformationGradientEstimator(n_eigen_threshold=0.9)(
            x, network(x)
        ),
    ],
    ids=["entropy", "encoder_information", "negentropy", "landmarks", "infonce", "release"],
)
def test_other_surrogates_compile_in_one_graph(loss: Callable[..., Tensor]) -> None:
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = trained(compiled, steps=1), trained(loss, steps=1)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_projection_does_not_keep_the_compilers_tensors() -> None:
    projection, x = mige.RandomProjection(k=3, seed=17), normal(8, 5, dtype=torch.float32)
    compiled = torch.compile(projection.__call__, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), projection(x))


def test_the_score_is_one_graph_on_cuda() -> None:
    class Score(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return mige.mutual_information(x, z, estimator=SSGE(calibrate="stein"))

    with FakeTensorMode():
        x, z = (torch.empty(2, 16, d, device="cuda") for d in (5, 4))
        with torch.no_grad():  # with gradients, a surrogate refuses to be exported
            program = torch.export.export(Score(), (x, z))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("mige_ext.ssge.default") == 1
    assert not [t for t in targets if "local_scalar" in t or t == "aten.item.default"]
