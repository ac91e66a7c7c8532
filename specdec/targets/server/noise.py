"""How well a server repeats itself: differences of rows that should be one and the same.

Kernels that add in another order and other company in a batch move the log-probabilities of one
position by some hundredths of a nat; quantised weights, which are multiplied in another way when a
prompt is read at once than when it is written token by token, by tenths. A server that scores
something else moves them by whole nats, nearly everywhere. So a verdict is the median over several
positions and repetitions, and what the server's own numbers vary by is told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from specdec.targets.server.rows import Row

TOLERANCE = 0.2
"""The largest median difference, in nats, of two computations of the same log-probabilities."""
MAX_TOLERANCE = 0.6
"""Beyond this it is something else, however noisy a server is."""
_ALLOWANCE = 1.5
QUIET = 0.02
"""Where no difference is larger, once is enough."""
NOTICEABLE = 0.05
"""From here on what is drawn is no longer called exact: e^0.05 is 5 % of a probability."""
MAX_REPETITIONS = 3
_COMPARED = 5


def difference(left: Row, right: Row) -> float:
    """Return the largest difference between the likeliest log-probabilities of two rows."""
    known = dict(zip(right.token_ids.tolist(), right.logprobs.tolist(), strict=True))
    pairs = zip(left.token_ids[:_COMPARED].tolist(), left.logprobs.tolist(), strict=False)
    shared = [(value, known[index]) for index, value in pairs if index in known]
    enough = (min(len(left), len(right), _COMPARED) + 1) // 2
    if not shared or len(shared) < enough:
        return math.inf
    return max(0.0 if one == other else abs(one - other) for one, other in shared)


def repeated(ask: Callable[[], Sequence[float]]) -> list[float]:
    """Return the differences of some repetitions; where there is no noise, of one."""
    differences: list[float] = []
    for _ in range(MAX_REPETITIONS):
        differences += ask()
        if max(differences) <= QUIET:
            break
    return differences


def agree(differences: Sequence[float], noise: float = 0.0) -> bool:
    """Say whether these are two computations of the same by a server with this noise."""
    return median(differences) <= min(max(TOLERANCE, _ALLOWANCE * noise), MAX_TOLERANCE)


def noise_words(noise: float) -> str:
    """Say how well a server repeats itself."""
    if math.isinf(noise):
        return "this server does not name the same tokens when it is asked again"
    return f"this server repeats itself to within {noise:.2g} nats"
