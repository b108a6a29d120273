"""The results of an audit."""

from dataclasses import dataclass

#: The kinds of attackers. There are four perceptrons: two sizes, on standardized and whitened z.
ATTACKERS = ("perceptrons", "neighbors", "trees")


class _Scored:
    r2: float | None
    accuracy_above_chance: float | None

    @property
    def score(self) -> float:
        """``r2`` of a continuous s, or ``accuracy_above_chance`` of a categorical s."""
        score = self.accuracy_above_chance if self.r2 is None else self.r2
        assert score is not None
        return score


@dataclass(frozen=True)
class Attack(_Scored):
    """What one attacker finds on the test rows."""

    #: Name of the attacker.
    attacker: str
    #: Information about s that the attacker extracts from z, in nats.
    nats: float
    #: Standard error of ``nats`` over the test rows.
    standard_error: float
    #: R² of a continuous s, averaged over the columns of s; None for a categorical s.
    r2: float | None
    #: Accuracy minus the frequency of the most frequent class; None for a continuous s.
    accuracy_above_chance: float | None
    #: ``nats`` on the validation rows. The strongest attacker has the largest value.
    validation_nats: float
    #: ``r2`` or ``accuracy_above_chance`` on the validation rows.
    validation_score: float


@dataclass(frozen=True)
class Leakage(_Scored):
    """What the strongest attacker finds on the test rows; returned by ``leakage``."""

    #: Lower bound of I(z; s) in nats, from the strongest attacker.
    nats: float
    #: Standard error of ``nats`` over the test rows.
    standard_error: float
    #: R² of a continuous s, from the attacker with the largest validation R²; None for a
    #: categorical s.
    r2: float | None
    #: Accuracy minus the frequency of the most frequent class, from the attacker with the largest
    #: validation accuracy; None for a continuous s.
    accuracy_above_chance: float | None
    #: Name of the strongest attacker: the attacker with the most nats on the validation rows.
    attacker: str
    #: Entropy of the classes or bins of s in nats, the largest possible ``nats``.
    entropy: float
    #: Number of test rows.
    test_rows: int
    #: Results of all attackers.
    attacks: tuple[Attack, ...]

    def __str__(self) -> str:
        """One line for the result, and one line for each attacker."""
        head = f"{self.nats:.4f} ± {self.standard_error:.4f} nats"
        rows = [
            f"{head} of at most {self.entropy:.4f}, {_score(self)} ({self.test_rows:,} test rows)",
            *(
                f"  {attack.attacker:<24} {attack.nats:8.4f} ± {attack.standard_error:.4f} nats, "
                f"{_score(attack)}"
                for attack in self.attacks
            ),
        ]
        return "\n".join(rows)


def _score(result: Attack | Leakage) -> str:
    if result.r2 is not None:
        return f"R² {result.score:.3f}"
    return f"accuracy {100 * result.score:.2f} points above chance"
