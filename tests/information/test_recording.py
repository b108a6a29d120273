"""A recording gives the choices of the estimators of every surrogate, without computing again."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import mige_ext as mige
from mige_ext import _recording
from tests.support.inputs import normal

X = normal(3, 40, 3)
S = normal(3, 40, 2, seed=1)
ESTIMATORS: dict[str, mige.FittableEstimator[Any]] = {
    "adaptive": mige.AdaptiveScore(),
    "qis": mige.AdaptiveScore(gaussian="qis", calibrate="stein"),
    "SSGE": mige.SSGE(),
    "SSGE-stein": mige.SSGE(calibrate="stein"),
    "Tikhonov": mige.Tikhonov(),
    "Tikhonov-stein": mige.Tikhonov(calibrate="stein"),
    "Gaussian": mige.GaussianScore(),
    "Landmarks": mige.Landmarks(m=16),
}
Call = Callable[[Tensor, Tensor], Tensor]
SURROGATES: dict[str, tuple[Call, list[str]]] = {
    "entropy": (lambda x, z: mige.entropy(z), ["z"]),
    "negentropy": (lambda x, z: mige.negentropy(z), ["z"]),
    "mutual_information": (lambda x, z: mige.mutual_information(x, z), ["joint", "z"]),
    "code_information": (lambda x, z: mige.code_information(x, z), ["joint", "z"]),
    "encoder_information": (lambda x, z: mige.encoder_information(z), ["z", "z given x"]),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_recorded_by_name_and_term(name: str) -> None:
    call, terms = SURROGATES[name]
    x, z = normal(40, 40, 2), normal(40, 40, 2, seed=1).requires_grad_()
    torch.manual_seed(0)
    expected = call(x, z)
    torch.manual_seed(0)
    with mige.recording() as log:
        value = call(x, z)
    assert torch.equal(value, expected)
    assert [record.name for record in log] == [name]
    assert list(log[0].terms) == terms
    for term in log[0].terms.values():
        for chosen in (term.calibration, term.lam, term.base, term.nu, term.risk):
            assert chosen is not None and chosen.shape == (40,) and not chosen.requires_grad


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_record_of_an_entropy_is_the_diagnosis(name: str) -> None:
    estimator = ESTIMATORS[name]
    with mige.recording() as log:
        mige.entropy(X.clone().requires_grad_(), estimator=estimator)
    term, expected = log[0].terms["z"], estimator.diagnose(X)
    assert term.calibration is not None
    torch.testing.assert_close(term.calibration, expected.calibration)
    if isinstance(expected, mige.AdaptiveDiagnostics):
        for quantity in ("lam", "base", "nu", "risk"):
            assert torch.equal(getattr(term, quantity), getattr(expected, quantity))
    else:
        assert term.lam is None and term.risk is None


@pytest.mark.parametrize(
    ("marginal", "terms"),
    [
        ("paired", ["joint", "x", "z"]),
        ("own", ["joint", "x", "z"]),
        ("matched", ["joint", "product"]),
    ],
)
def test_every_marginal_is_recorded(marginal: str, terms: list[str]) -> None:
    x, z = X.clone().requires_grad_(), S.clone().requires_grad_()
    with mige.recording() as log:
        mige.mutual_information(x, z, marginal=marginal)  # type: ignore[arg-type]
    assert list(log[0].terms) == terms
    if marginal == "own":
        joint = mige.AdaptiveScore().diagnose(torch.cat((X, S), -1))
        recorded = log[0].terms["joint"].lam
        assert recorded is not None and torch.equal(recorded, joint.lam)


@pytest.mark.parametrize("estimator", [None, mige.SSGE(), mige.Tikhonov()])
@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_a_record_is_independent_of_later_changes(
    marginal: Any, estimator: mige.FittableEstimator[Any] | None
) -> None:
    logs = []
    for changed in (False, True):
        x, z = X.clone(), S.clone()
        x[..., 0] = 3.0  # a constant column does not count in a calibration
        torch.manual_seed(0)
        with mige.recording() as log:
            value = mige.mutual_information(
                x.requires_grad_(), z.requires_grad_(), marginal=marginal, estimator=estimator
            )
        if changed:
            with torch.no_grad():
                for tensor in (x, z, value):
                    tensor.zero_()
        logs.append(pickle.loads(pickle.dumps(log)) if changed else log)
    for name, term in logs[0][0].terms.items():
        expected, calibration = term.calibration, logs[1][0].terms[name].calibration
        assert expected is not None and calibration is not None
        assert torch.equal(calibration, expected)


@pytest.mark.parametrize("estimator", [mige.SSGE(), mige.Tikhonov()])
def test_a_calibration_counts_the_columns_that_vary(
    estimator: mige.FittableEstimator[Any],
) -> None:
    x, z = X.clone(), S.clone().requires_grad_()
    x[..., 0] = 3.0
    with mige.recording() as log:
        mige.mutual_information(x, z, estimator=estimator)
    for name, samples in (("joint", torch.cat((_scaled(x), _scaled(S)), -1)), ("z", S)):
        calibration = log[0].terms[name].calibration
        assert calibration is not None
        torch.testing.assert_close(calibration, estimator.diagnose(samples).calibration)


def _scaled(x: Tensor) -> Tensor:
    """The samples relative to their mean and to the scale of the columns that vary."""
    x = x - x.mean(-2, keepdim=True)
    varying = (x.abs() > 1e-12).any(-2, keepdim=True)
    scale = x.square().mean(-2, keepdim=True).sum(-1, keepdim=True) / varying.sum(-1, keepdim=True)
    return torch.where(varying, x / scale.sqrt(), 0.0)


@pytest.mark.parametrize("estimator", [None, mige.SSGE()])
def test_the_size_of_a_record_does_not_depend_on_the_samples(estimator: mige.SSGE | None) -> None:
    sizes = []
    for m, d in ((16, 2), (160, 20)):
        with mige.recording() as log:
            x, z = normal(m, d), normal(m, d, seed=1).requires_grad_()
            mige.mutual_information(x, z, estimator=estimator)
        sizes.append(len(pickle.dumps(log)))
    assert abs(sizes[0] - sizes[1]) < 64


class Passive:
    """An estimator without diagnostics."""

    def score(self, samples: Tensor) -> Tensor:
        return -2 * (samples - samples.mean(-2, keepdim=True))


def test_the_calibration_of_any_estimator_is_recorded() -> None:
    with mige.recording() as log:
        mige.entropy(X.clone().requires_grad_(), estimator=Passive())
    calibration = log[0].terms["z"].calibration
    assert calibration is not None
    torch.testing.assert_close(calibration, 2 * X.var(-2, correction=0).mean(-1))


class Summed(Passive):
    """An estimator that reduces the samples of several processes to sums, without diagnostics."""

    def score_distributed(self, samples: Tensor, **_: object) -> Tensor:
        return self.score(samples)


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_a_batch_of_several_processes_is_recorded(tmp_path: Path) -> None:
    z = S[0].clone().requires_grad_()
    landmarks = mige.Landmarks(m=16)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with mige.recording() as log:
            for estimator in (landmarks, mige.AdaptiveScore(), Summed()):
                mige.entropy(z, estimator=estimator, group=dist.group.WORLD)
    finally:
        dist.destroy_process_group()
    terms = [record.terms["z"] for record in log]
    calibration, lam = terms[0].calibration, terms[1].lam
    assert calibration is not None and lam is not None
    torch.testing.assert_close(calibration, landmarks.diagnose(z).calibration)
    assert torch.equal(lam, mige.AdaptiveScore().diagnose(z).lam)
    assert terms[2].calibration is None


def test_only_calls_inside_and_in_the_same_thread_are_recorded() -> None:
    z = S.clone().requires_grad_()
    mige.entropy(z)
    with mige.recording() as outer:
        mige.AdaptiveScore().score(z)
        mige.entropy(z, estimator=Passive())
        with mige.recording() as inner:
            mige.negentropy(z)
        thread = threading.Thread(target=mige.entropy, args=(z,))
        thread.start()
        thread.join()
    mige.entropy(z)
    assert [record.name for record in outer] == ["entropy", "negentropy"]
    assert [record.name for record in inner] == ["negentropy"]
    assert outer[0].terms["z"].lam is None
    assert not _recording._active


def test_a_recording_ends_with_an_error() -> None:
    with pytest.raises(ValueError, match="z must be finite"), mige.recording():
        mige.entropy(torch.full((8, 2), torch.nan, requires_grad=True))
    assert not _recording._active


def test_a_surrogate_under_torch_func_is_recorded() -> None:
    with mige.recording() as log:
        torch.func.grad(mige.entropy)(S)
    lam = log[0].terms["z"].lam
    assert lam is not None and torch.equal(lam, mige.AdaptiveScore().diagnose(S).lam)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_surrogates_are_refused_by_name() -> None:
    compiled = torch.compile(mige.entropy, fullgraph=True, backend="eager")
    z = S.clone().requires_grad_()
    try:
        expected = compiled(z)
        with mige.recording(), pytest.raises(Exception, match="recording does not work"):
            compiled(z)
        assert torch.equal(compiled(z), expected)
    finally:
        torch.compiler.reset()


# --- the name of grad_fn --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SURROGATES)
def test_the_grad_fn_is_named_after_the_function(name: str) -> None:
    call, _ = SURROGATES[name]
    value = call(normal(8, 8, 2), normal(8, 8, 2, seed=1).requires_grad_())
    assert value.grad_fn is not None
    assert value.grad_fn.name() == "".join(map(str.capitalize, name.split("_"))) + "Backward"
