"""Critics of the variational bounds: their scores, ensembles and errors."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mige_ext.bounds import JointCritic, SeparableCritic, mine, split_pairs
from tests.support.inputs import normal

CRITICS = [JointCritic(3, 2, 16), SeparableCritic(3, 2, 16, embedding=4)]


@pytest.mark.parametrize("critic", CRITICS)
def test_broadcast_scores_all_pairs(critic: nn.Module) -> None:
    x, z = torch.randn(4, 3), torch.randn(4, 2)
    matrix = critic(x[:, None], z[None, :])
    pairs = [torch.stack([critic(x[i], z[j]) for j in range(4)]) for i in range(4)]
    torch.testing.assert_close(matrix, torch.stack(pairs))
    torch.testing.assert_close(critic(x, z), matrix.diagonal())


def test_joint_critic_is_a_perceptron_on_the_concatenation() -> None:
    critic, x, z = JointCritic(3, 2, 16), torch.randn(5, 3), torch.randn(5, 2)
    expected = critic.rest(critic.first(torch.cat([x, z], dim=1))).squeeze(1)
    torch.testing.assert_close(critic(x, z), expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_critics_have_the_layers_asked_for(layers: int) -> None:
    for critic, networks in (
        (JointCritic(3, 2, 8, layers), 1),
        (SeparableCritic(3, 2, 8, layers), 2),
    ):
        linear = [module for module in critic.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == networks * (layers + 1)


@pytest.mark.parametrize("make", [JointCritic, SeparableCritic])
def test_vmapped_ensemble_trains_each_critic_as_if_alone(
    make: type[JointCritic] | type[SeparableCritic],
) -> None:
    critics = [make(3, 2, 8).double() for _ in range(3)]
    x, z, average = normal(3, 6, 3), normal(3, 6, 2, seed=1), normal(3, seed=2)
    parameters, _ = stack_module_state(critics)

    def step(
        parameters: Mapping[str, Tensor], x: Tensor, z: Tensor, average: Tensor
    ) -> tuple[Tensor, Tensor]:
        matrix = functional_call(critics[0], dict(parameters), (x[:, None], z[None, :]))
        return mine(*split_pairs(matrix), average)

    values, averages = vmap(step)(parameters, x, z, average)
    stacked = torch.autograd.grad(values.sum(), list(parameters.values()))
    for e, critic in enumerate(critics):
        own = dict(critic.named_parameters())
        value, new_average = step(own, x[e], z[e], average[e])
        torch.testing.assert_close(values[e], value)
        torch.testing.assert_close(averages[e], new_average)
        alone = torch.autograd.grad(value, list(own.values()))
        torch.testing.assert_close([gradient[e] for gradient in stacked], list(alone))


@pytest.mark.parametrize("name", ["x_dim", "z_dim", "hidden", "layers"])
def test_critics_reject_sizes_below_one(name: str) -> None:
    sizes = {"x_dim": 3, "z_dim": 2, "hidden": 8, "layers": 2, name: 0}
    for make in (JointCritic, SeparableCritic):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
            make(**sizes)


@pytest.mark.parametrize("critic", CRITICS)
def test_critics_reject_rows_of_another_width(critic: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 3\), got \(4, 2\)"):
        critic(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 2\), got \(4, 3\)"):
        critic(torch.zeros(4, 3), torch.zeros(4, 3))


@pytest.mark.parametrize("critic", CRITICS)
def test_critics_reject_rows_that_do_not_broadcast(critic: nn.Module) -> None:
    expected = r"x and z must have leading dimensions that broadcast, got \(4, 3\) and \(5, 2\)"
    with pytest.raises(ValueError, match=expected):
        critic(torch.zeros(4, 3), torch.zeros(5, 2))
