"""Tests of bad and extreme input, for every tensor argument of the public functions.

Every input must give a finite result, or an error that names the argument, the expected value and
the actual value.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import ops
from tests.support.inputs import normal

ERRORS = (TypeError, ValueError, RuntimeError)
NAN, INF = float("nan"), float("inf")
X = normal(6, 3, dtype=torch.float32)
Z = normal(6, 2, dtype=torch.float32)
B = normal(2, 6, 3, dtype=torch.float32)
ONE = torch.ones(())
DIFFERENTIABLE = {"squared_distances", "rbf_gram", "RBF", "IMQ", "entropy", "encoder_information",
                  "code_information", "mutual_information", "negentropy", "RandomProjection",
                  "entropy_surrogate", "MutualInformationGradientEstimator"}  # fmt: skip


def fill(like: Any, *tail: int) -> Tensor:
    """Random values (..., *tail), with the leading dimensions and the dtype of ``like``."""
    if not isinstance(like, Tensor):
        return normal(*tail, dtype=torch.float32)
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return normal(*like.shape[:-2], *tail, dtype=dtype)


def sigma(like: Any) -> Tensor:
    """A valid bandwidth."""
    return torch.ones_like(fill(like))


# --- the tensor arguments -------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """One tensor argument of a public function or method; all other arguments are valid.

    Attributes:
        owner: the function or class.
        method: name of the method, or "" for a function.
        name: name of the argument in the signature and in error messages.
        call: calls the function with a value of this argument.
        rows: the smallest number of samples that is allowed.
        native: whether only float32 and float64 are allowed, as for operators.
        paired: whether there are other tensor arguments, which must be on the same device.
        shape: a valid shape.
        samples: whether the last two dimensions are samples and their coordinates.
        wrong_shapes: further shapes that raise an error.
    """

    owner: Any
    method: str
    name: str
    call: Callable[[Any], Any]
    rows: int = 2
    native: bool = False
    paired: bool = False
    shape: tuple[int, ...] = (16, 3)
    samples: bool = True
    wrong_shapes: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.method}.{self.name}".replace("..", ".")

    @property
    def differentiable(self) -> bool:
        """Whether the result has a derivative with respect to the argument."""
        return self.owner.__name__ in DIFFERENTIABLE

    def good(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random numbers without large values."""
        return normal(*self.shape, dtype=dtype).clamp(-3, 3)


def tensors_of(result: Any) -> Iterator[Tensor]:
    """Every tensor in a result, also in records, and the scores of a fit at its samples."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple):
        for part in result:
            yield from tensors_of(part)
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            if field.name in ("lam", "nu"):  # infinite if the Gaussian score is used unchanged
                continue
            yield from tensors_of(getattr(result, field.name))
        if isinstance(result, mige.Fitted):
            yield result.score()


def assert_finite(result: Any) -> None:
    tensors = list(tensors_of(result))
    assert tensors
    for t in tensors:
        assert t.isfinite().all(), t


def with_value(t: Tensor, value: float) -> Tensor:
    t = t.clone()
    t.view(-1)[t.numel() // 2] = value
    return t


# kind -> (a function that makes a bad value, the message after the argument's name)
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "list": (lambda t: t.tolist(), r"must be a torch\.Tensor, got list"),
    "None": (lambda t: None, r"must be a torch\.Tensor, got NoneType"),
    "integer": (lambda t: t.long(), r"must have a floating-point dtype, got torch\.int64"),
    "bool": (lambda t: t.bool(), r"must have a floating-point dtype, got torch\.bool"),
    "complex": (lambda t: t + 0j, r"must have a floating-point dtype, got torch\.complex64"),
    "sparse": (lambda t: t.to_sparse(), r"must be a dense tensor, got layout torch\.sparse_coo"),
    "float8": (
        lambda t: t.to(torch.float8_e4m3fn),
        r"must have a floating-point dtype of at least 16 bits, got torch\.float8_e4m3fn",
    ),
    "nan": (lambda t: with_value(t, torch.nan), r"must be finite, got "),
    "inf": (lambda t: with_value(t, torch.inf), r"must be finite, got "),
    "-inf": (lambda t: with_value(t, -torch.inf), r"must be finite, got "),
    "all nan": (lambda t: t * torch.nan, r"must be finite, got "),
}
MAY_BE_NONE = {("squared_distances", "y"), ("rbf_gram", "y"), ("RBF", "y"), ("IMQ", "y"),
               ("FittedSSGE", "query"), ("FittedFilter", "query"), ("FittedGaussian", "query"),
               ("FittedNetwork", "query"), ("FittedAdaptive", "query"),
               ("FittedLandmarks", "query"), ("SpectralScoreEstimator", "x"),
               ("encoder_information", "conditional"), ("Landmarks", "landmarks")}  # fmt: skip


def scaled(a: float) -> Callable[[Tensor], Tensor]:
    return lambda t: t * a


def outlier(t: Tensor) -> Tensor:
    t = t.clone()
    t[..., 0, :] = 1e30
    return t


EXTREME: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "all equal": lambda t: t[..., :1, :].expand(t.shape),
    "75 % duplicates": lambda t: t[..., [0, 1, 2, 3] * 4, :][..., : t.shape[-2], :],
    "all but one equal": lambda t: torch.cat(
        [t[..., :1, :], t[..., 1:2, :].expand(t[..., 1:, :].shape)], -2
    ),
    "1e30": scaled(1e30),
    "1e-30": scaled(1e-30),
    "1e38": scaled(1e38),
    "1e-38": scaled(1e-38),
    "subnormal": scaled(1e-42),
    "mixed scales": lambda t: t * torch.tensor([1e30, 1.0, 1e-30]).repeat(2)[: t.shape[-1]],
    "outlier": outlier,
    "offset": lambda t: t + 1e6,
    "transposed": lambda t: t.mT.contiguous().mT,
    "expanded": lambda t: t[..., :1].expand(t.shape),
    "every other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "one coordinate": lambda t: t[..., :1],
    "empty batch": lambda t: t.expand(0, *t.shape),
    "batch of empty batches": lambda t: t.expand(2, 0, *t.shape),
}  # fmt: skip
CHANGES_THE_SHAPE = {"one coordinate"}


def fixed_columns(argument: Argument) -> bool:
    """Whether the other arguments of the call determine the number of columns."""
    return argument.paired and (argument.owner.__name__, argument.name) in {
        ("squared_distances", "y"), ("rbf_gram", "y"), ("RBF", "y"), ("IMQ", "y"),
        ("rbf_product", "q"), ("rbf_product", "x"), ("FittedSSGE", "query"),
        ("FittedFilter", "query"), ("FittedGaussian", "query"), ("FittedNetwork", "query"),
        ("FittedAdaptive", "query"), ("Landmarks", "landmarks"), ("LandmarkStatistics", "samples"),
        ("FittedLandmarks", "query"), ("SpectralScoreEstimator", "x"),
        ("SpectralScoreEstimator", "samples"),
    }  # fmt: skip


def only(condition: Callable[[Argument], bool]) -> Callable[[Any], Any]:
    """Restrict a test to the arguments that fulfill a condition."""

    def mark(test: Any) -> Any:
        test.condition = condition
        return test

    return mark


class BadInputTests:
    """Tests of the arguments that a subclass lists. Each module of tests has one subclass."""

    ARGUMENTS: ClassVar[list[Argument]]
    # name of the test -> (a call with arguments of different sizes, the message)
    UNFIT: ClassVar[dict[str, tuple[Callable[[], Any], str]]]
    # settings: (owner, name, call, bad values, expectation in the message)
    NUMBERS: ClassVar[list[tuple[Any, str, Callable[[Any], Any], list[Any], str]]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "argument" in metafunc.fixturenames:
            condition = getattr(metafunc.function, "condition", lambda argument: True)
            chosen = [a for a in self.ARGUMENTS if condition(a)]
            metafunc.parametrize("argument", chosen, ids=str)
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.UNFIT)
        if "value" in metafunc.fixturenames:
            rows = []
            for owner, name, call, values, expectation in self.NUMBERS:
                for i, value in enumerate(values):
                    label = getattr(value, "__name__", None) or repr(value)
                    label = f"{owner.__name__}.{name}={label}-{i}"
                    rows.append(pytest.param(name, call, value, expectation, id=label))
            metafunc.parametrize(("name", "call", "value", "expectation"), rows)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_good_input_gives_finite_results(self, argument: Argument, dtype: torch.dtype) -> None:
        assert_finite(argument.call(argument.good(dtype)))

    @pytest.mark.parametrize("kind", REFUSED)
    def test_values_that_are_not_finite_real_tensors_are_refused_by_name(
        self, argument: Argument, kind: str
    ) -> None:
        make, message = REFUSED[kind]
        bad = make(argument.good())
        if kind == "None" and (argument.owner.__name__, argument.name) in MAY_BE_NONE:
            argument.call(bad)
            return
        with pytest.raises(ERRORS, match=rf"^{argument.name} {message}"):
            argument.call(bad)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_accepted_by_estimators_and_refused_by_operators(
        self, argument: Argument, dtype: torch.dtype
    ) -> None:
        x = argument.good(dtype)
        if not argument.native:
            assert_finite(argument.call(x))
            return
        with pytest.raises(TypeError, match=rf"^{argument.name} must (be|have) .*, got {dtype}"):
            argument.call(x)

    @only(lambda a: a.samples)
    def test_wrong_shapes_of_samples_are_refused_by_name(self, argument: Argument) -> None:
        *front, _, _ = argument.shape
        wrong = [(), (3,), (*front, 16, 0)]
        wrong += [(*front, rows, 3) for rows in range(argument.rows)]
        wrong += argument.wrong_shapes
        for shape in wrong:
            got = re.escape(str(shape))
            message = rf"^{argument.name} must have shape \(.*\) with .*, got {got}"
            with pytest.raises(ValueError, match=message):
                argument.call(torch.zeros(shape))

    @only(lambda a: a.paired)
    def test_devices_must_not_be_mixed(self, argument: Argument) -> None:
        message = r"^\w+ must be on the device of \w+, (cpu|meta), got (cpu|meta)"
        with pytest.raises(ERRORS, match=message):
            argument.call(argument.good().to("meta"))

    def test_arguments_of_different_sizes_are_refused_with_both_sizes(self, case: str) -> None:
        call, message = self.UNFIT[case]
        with pytest.raises(ERRORS, match=f"^{message}"):
            call()

    def test_settings_out_of_range_are_refused_by_name_with_the_value(
        self, name: str, call: Callable[[Any], Any], value: Any, expectation: str
    ) -> None:
        shown = re.escape(repr(value))
        if isinstance(value, (int, float)):
            shown = rf"({shown}|{re.escape(f'{value:g}')})"
        with pytest.raises(ERRORS, match=rf"^{name} {expectation}.*got .*{shown}"):
            call(value)

    @pytest.mark.parametrize("kind", EXTREME)
    def test_extreme_input_gives_finite_results(self, argument: Argument, kind: str) -> None:
        if kind in CHANGES_THE_SHAPE and (argument.owner is ops.eigh or fixed_columns(argument)):
            return
        if argument.name == "conditional" and "empty" in kind:
            return  # An empty tensor has no mean and raises an error.
        assert_finite(argument.call(EXTREME[kind](argument.good())))

    @only(lambda a: a.differentiable)
    @pytest.mark.parametrize("kind", EXTREME)
    def test_extreme_input_gives_finite_gradients(self, argument: Argument, kind: str) -> None:
        if kind in CHANGES_THE_SHAPE and fixed_columns(argument):
            return
        if argument.name == "conditional" and "empty" in kind:
            return
        x = EXTREME[kind](argument.good()).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(argument.call(x).sum(), x)
        assert gradient.shape == x.shape and gradient.dtype == x.dtype
        assert gradient.isfinite().all()

    def test_results_require_a_gradient_only_if_they_have_a_derivative(
        self, argument: Argument
    ) -> None:
        x = argument.good().requires_grad_()
        expected = list(tensors_of(argument.call(x.detach())))
        got = list(tensors_of(argument.call(x)))
        # The value of these surrogates depends on which arguments require a gradient.
        if argument.owner not in (mige.mutual_information, mige.code_information):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        if argument.differentiable:
            assert all(t.requires_grad for t in got)
        elif argument.owner is not mige.Bandwidth and argument.owner not in vars(ops).values():
            assert not any(t.requires_grad for t in got)  # scores have no gradient

    def test_a_call_that_raises_does_not_change_later_results(self, argument: Argument) -> None:
        x = argument.good()
        expected = list(tensors_of(argument.call(x)))
        with pytest.raises(ERRORS):
            argument.call(with_value(x, torch.nan))
        got = list(tensors_of(argument.call(x)))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
