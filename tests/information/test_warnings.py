"""Calls that are valid but probably not meant give one warning, which says what to do."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor

import mige_ext as mige
from mige_ext import _memory, _misuse
from mige_ext.information import _categories
from tests.support.misuse import forget_warnings


def representation(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": mige.entropy,
    "negentropy": mige.negentropy,
    "mutual_information": lambda z: mige.mutual_information(torch.randn(32, 2), z),
    "code_information": lambda z: mige.code_information(torch.randn(32, 2), z),
    "encoder_information": lambda z: mige.encoder_information(
        z.unsqueeze(-2) + torch.randn(32, 4, 2)
    ),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_arguments_without_a_gradient_give_a_warning(name: str) -> None:
    z = torch.randn(32, 2)
    with pytest.warns(mige.MigeWarning, match=r"requires? (no|a) gradient.*no_grad"):
        SURROGATES[name](z)
    with torch.no_grad():
        SURROGATES[name](z)


def test_a_warning_is_given_once_at_the_line_of_the_caller() -> None:
    z = torch.randn(32, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            mige.entropy(z)
            mige.negentropy(z)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_warning_of_an_estimator_names_the_line_of_the_caller() -> None:
    with pytest.warns(mige.MigeWarning) as caught:
        mige.entropy(representation(4, 20))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("s", ["labels", "one-hot", "groups"])
def test_few_values_give_a_warning(s: str) -> None:
    labels = torch.randint(0, 10, (128,))
    values = {
        "labels": labels.double().unsqueeze(-1),
        "one-hot": torch.nn.functional.one_hot(labels, 10).float(),
        "groups": labels.float().reshape(2, 64, 1),
    }[s]
    z = representation(*values.shape[:-1], 3)
    with pytest.warns(mige.MigeWarning, match=r"^x takes .* distinct values.*noise"):
        mige.mutual_information(values, z)
    noisy = values + 0.1 * torch.randn_like(values)
    forget_warnings()
    mige.mutual_information(noisy, z)
    mige.estimate_entropy(noisy[..., :1])
    forget_warnings()
    with pytest.warns(mige.MigeWarning, match=r"^z takes .* distinct values"):
        mige.estimate_entropy(values[..., :1])


def test_a_column_with_few_values_gives_a_warning_that_names_it() -> None:
    x = torch.cat([torch.randn(128, 1), torch.ones(128, 1), torch.randn(128, 1).sign()], 1)
    with pytest.warns(mige.MigeWarning, match=r"^column 2 of x takes 2 distinct values in 128"):
        mige.mutual_information(x, representation(128, 3))


def test_each_argument_has_its_own_warning() -> None:
    few, other = torch.randn(128, 1).sign(), representation(128, 1)
    with pytest.warns(mige.MigeWarning, match="^z takes 2 distinct values"):
        mige.mutual_information(other, few)
    with pytest.warns(mige.MigeWarning, match="^x takes 2 distinct values"):
        mige.mutual_information(few, other)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_give_an_error_and_no_warning(value: float) -> None:
    z = torch.full((64, 2), value, requires_grad=True)
    with pytest.raises(ValueError, match="z must be finite"):
        mige.mutual_information(torch.randn(64, 3), z)


@pytest.mark.parametrize("groups", [(), (3,)])
@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_numbers_that_are_given_as_classes_give_a_warning(marginal: Any, groups: Any) -> None:
    z, numbers = representation(*groups, 40, 2), torch.arange(40).expand(*groups, 40)
    with pytest.warns(mige.MigeWarning, match=r"^x has no class of at least . samples, so"):
        mige.mutual_information(numbers, z, marginal=marginal).backward()
    assert z.grad is not None and (z.grad == 0).all()
    forget_warnings()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "M = ", mige.MigeWarning)
        mige.mutual_information(numbers % 2, z, marginal=marginal)
        mige.mutual_information(numbers.clamp(min=37), z, marginal=marginal)
    with pytest.warns(
        mige.MigeWarning, match=r"x has \d+ classes in \d+ samples, on average fewer"
    ):
        mige.mutual_information(numbers % 20, z, marginal="paired")
    forget_warnings()
    with pytest.warns(mige.MigeWarning, match=r"^given has no class of at least 3 samples"):
        mige.mutual_information(representation(*groups, 40, 2), z, given=numbers // 2)


@pytest.mark.filterwarnings("ignore:x has 40 classes:mige_ext.MigeWarning")
@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_a_few_classes_are_not_counted_for_a_warning(
    marginal: Any, monkeypatch: MonkeyPatch
) -> None:
    counted = list[str]()
    monkeypatch.setattr(_categories, "may_warn", counted.append)
    for classes, expected in ((10, []), (40, ["small classes", "many classes"])):
        s = torch.arange(40) % classes
        mige.mutual_information(s, representation(40, 2), marginal=marginal)
        assert counted == expected


def test_data_with_repeated_values_in_a_column_give_no_warning() -> None:
    image = torch.rand(128, 20)
    image[:, 0] = 0
    image[:, 1] = image[:, 1].round()
    mige.mutual_information(image, representation(128, 3))
    repeated = torch.randn(64, 3).repeat(2, 1)
    mige.mutual_information(repeated, representation(128, 3))


@pytest.mark.parametrize("name", ["entropy", "negentropy", "mutual_information"])
def test_a_collapsed_code_gives_a_warning(name: str) -> None:
    z = torch.full((32, 2), 0.3, requires_grad=True)
    with pytest.warns(mige.MigeWarning, match="z has collapsed"):
        SURROGATES[name](z)


@pytest.mark.parametrize("copy", [lambda z: z, Tensor.detach, Tensor.clone, lambda z: z.tolist()])
@pytest.mark.parametrize("given", [None, torch.arange(32) % 2])
def test_information_of_equal_arguments_gives_a_warning(copy: Any, given: Any) -> None:
    z = representation(32, 2)
    x = torch.as_tensor(copy(z))
    with pytest.warns(mige.MigeWarning, match=r"^x and z have the same values.*entropy\(z\)"):
        mige.mutual_information(x, z, given=given)


def test_information_of_different_arguments_gives_no_warning(monkeypatch: MonkeyPatch) -> None:
    z = representation(32, 4)
    mige.mutual_information(z[:, :2], z[:, 2:])
    mige.mutual_information(z, z + 0.1 * torch.randn_like(z))
    mige.mutual_information(z.detach().T.reshape(32, 4), z)
    compared = list[Tensor]()
    monkeypatch.setattr(torch, "equal", lambda x, z: compared.append(x))
    for _ in range(3 * _misuse._READS):
        _misuse.warn_of_equal(z, z + 1)
    assert len(compared) < _misuse._READS


def test_shared_memory_is_found_without_a_read(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(_misuse, "_is_due", lambda name, samples: False)
    z = representation(32, 2)
    _misuse.warn_of_equal(z, z.detach().clone())
    with pytest.warns(mige.MigeWarning, match=r"I\(x; z\) is infinite"):
        _misuse.warn_of_equal(z, z.detach())


def test_a_code_that_collapses_in_training_gives_a_warning(monkeypatch: MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(_misuse, "monotonic", lambda: now)
    for _ in range(_misuse._READS):
        mige.entropy(representation(32, 2))
    collapsed = torch.full((32, 2), 0.3, requires_grad=True)
    mige.entropy(collapsed)  # too soon for another read
    now += 0.1
    with pytest.warns(mige.MigeWarning, match="z has collapsed"):
        mige.entropy(collapsed)


def test_the_second_code_of_a_step_gives_a_warning_too() -> None:
    mige.entropy(representation(32, 2))
    with pytest.warns(mige.MigeWarning, match="z has collapsed"):
        mige.entropy(torch.full((32, 2), 0.3, requires_grad=True))
    forget_warnings()
    mige.entropy(representation(32, 2))
    few_values = representation(32, 2).detach().sign().requires_grad_()
    mige.entropy(few_values)  # An entropy has no warning about few values.
    with pytest.warns(mige.MigeWarning, match="z takes . distinct values"):
        mige.mutual_information(torch.randn(32, 2), few_values)


def test_every_call_looks_at_its_arguments_while_a_warning_is_an_error() -> None:
    z = torch.full((32, 2), 0.3, requires_grad=True)
    for _ in range(2):
        with pytest.raises(mige.MigeWarning, match="z has collapsed"):
            mige.entropy(z)


def test_a_code_with_one_varying_column_has_not_collapsed() -> None:
    z = torch.randn(32, 2)
    z[:, 0] = 0.3
    mige.entropy(z.requires_grad_())


def test_more_draws_than_inputs_give_a_warning() -> None:
    with pytest.warns(mige.MigeWarning, match=r"z has 32 draws for each of 8 inputs.*transpose z"):
        mige.encoder_information(representation(8, 32, 2))
    forget_warnings()
    mige.encoder_information(representation(32, 8, 2))


def test_few_samples_give_a_warning() -> None:
    z = representation(9, 8)
    for call in (mige.entropy, mige.GaussianScore().fit, mige.Landmarks(m=4).fit):
        forget_warnings()
        with pytest.warns(mige.MigeWarning, match=r"M = 9 samples in d = 8 dimensions.*M < d \+ 2"):
            call(z)
    forget_warnings()
    mige.entropy(representation(10, 8))
    with pytest.warns(mige.MigeWarning, match=r"d = 11 dimensions"):
        mige.mutual_information(torch.randn(10, 3), representation(10, 8))


def test_a_small_class_beside_a_large_one_gives_no_warning() -> None:
    z, s = representation(64, 8), torch.arange(64) > 59
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mige.mutual_information(s, z, marginal="own").backward()
    with pytest.warns(mige.MigeWarning, match=r"M = 4 samples in d = 8 dimensions"):
        mige.mutual_information(torch.arange(64) // 4, z, marginal="own")


@pytest.mark.parametrize(
    "estimator", [mige.AdaptiveScore(), mige.SSGE(), mige.Tikhonov(), mige.NuMethod(steps=2)]
)
def test_many_samples_give_a_warning(
    estimator: mige.ScoreEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "MANY_SAMPLES", 50)
    with pytest.warns(mige.MigeWarning, match=r"M = 60 needs .* GB .*Landmarks\(m=1024\)"):
        estimator.score(torch.randn(60, 2))


@pytest.mark.parametrize(
    "estimator", [mige.Landmarks(m=8), mige.GaussianScore(), mige.SlicedScoreMatching(steps=1)]
)
def test_estimators_of_linear_time_give_no_warning(
    estimator: mige.ScoreEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "MANY_SAMPLES", 50)
    monkeypatch.setattr(_memory, "free_memory", lambda device: 0)
    estimator.score(torch.randn(60, 2))


def test_samples_that_do_not_fit_into_memory_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "free_memory", lambda device: int(64e9))
    expected = r"M = 100000 needs 160 GB, and cpu has 64 GB free: use estimator=Landmarks\(m=1024\)"
    with pytest.raises(MemoryError, match=expected):
        mige.entropy(representation(100_000, 1))
    with pytest.raises(MemoryError, match="M = 100000 needs 320 GB"):
        mige.mutual_information(torch.randn(100_000, 1).double(), representation(100_000, 1))


def test_classes_that_do_not_fit_into_memory_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "free_memory", lambda device: int(1e9))
    z = representation(2000, 64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "x has 1000 classes", mige.MigeWarning)
        with pytest.raises(MemoryError, match=r"1000 classes with .* need 6.14 GB, .* merge"):
            mige.mutual_information(torch.arange(2000) // 2, z)


def test_free_memory_of_the_cpu_is_known_on_linux() -> None:
    free = _memory.free_memory(torch.device("cpu"))
    assert free is None or free > 1e6
    assert _memory.free_memory(torch.device("meta")) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: mige.entropy(torch.randn(1, 3)),
        lambda: mige.mutual_information(torch.randn(1, 3), torch.randn(1, 2)),
        lambda: mige.code_information(torch.randn(1, 3), torch.randn(1, 2)),
        lambda: mige.encoder_information(torch.randn(1, 4, 2)),
        lambda: mige.SSGE().score(torch.randn(1, 3)),
    ],
)
def test_the_error_about_one_sample_names_drop_last(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="drop_last=True"):
        call()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transforms_and_traces_give_no_warning() -> None:
    z = torch.zeros(16, 2)
    torch.func.grad(mige.entropy)(z)
    torch.func.grad(lambda z: mige.mutual_information(torch.zeros(16, 1), z))(z)
    compiled = torch.compile(mige.entropy, fullgraph=True, backend="eager")
    try:
        compiled(z)
    finally:
        torch.compiler.reset()


def test_a_filter_turns_all_warnings_off() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=mige.MigeWarning)
        # Three reasons for a warning: z needs no gradient, z has collapsed, and M < d + 2.
        mige.entropy(torch.zeros(4, 4))
