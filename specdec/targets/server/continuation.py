"""Protocol `continue`: the target goes on by itself; the draft never travels.

The server writes as many tokens as a full round could emit. Its distributions are those of *its*
continuation, so they hold for the draft up to and including the first token in which the two
differ; where the next row is unknown, the round ends with what was accepted. The output law is not
touched by this, since what is tested is tested against the target's own distribution, but nothing
is verified in parallel: a last resort, for servers that can do no better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.targets.server.faults import OnWait
from specdec.targets.server.http import Connection
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import Row
from specdec.targets.server.wire import COMPLETIONS_PATH, Answer, Dialect

WritePrompt = Callable[[Sequence[int]], tuple[str | list[int], int]]
"""Turns a context into what the server reads, ids or a text, and says how many of its last tokens
this leaves out."""


class Continuation:
    """Verify with a server that can only continue a prompt.

    Asked at temperature 0, the server goes the likeliest way, which a good draft goes too; where
    that would change its log-probabilities, it is asked at temperature 1 (`greedy` false).
    """

    name = "continue"
    path = COMPLETIONS_PATH

    def __init__(self, dialect: Dialect, write_prompt: WritePrompt, *, greedy: bool = True) -> None:
        self._dialect = dialect
        self._write_prompt = write_prompt
        self._greedy = greedy

    def ask(
        self,
        connection: Connection,
        context: Sequence[int],
        draft: Draft,
        on_wait: OnWait | None = None,
    ) -> Answer:
        prompt, num_held = self._write_prompt(context)
        whole = behind(context[len(context) - num_held :], draft)
        num_tokens = max(whole.depths, default=-1) + 2
        temperature = 0.0 if self._greedy else 1.0
        request = self._dialect.request(prompt, num_tokens, temperature)
        reply = connection.post(self.path, request, on_wait)
        positions = self.read(reply.body)
        rows = align(whole, positions)[num_held:]
        if rows[0] is None:
            raise TargetError(
                "The text so far ends inside a character, which this server takes no part of, and "
                "by itself it would have begun another; use a server that takes token ids."
            )
        return Answer.of(reply, rows)

    def read(self, body: Value) -> list[tuple[int | None, Row]]:
        """Return (chosen token, row) for every position; a token of None cannot be told."""
        (choice,) = self._dialect.choices(body, 1)
        return self._dialect.generated(choice, greedy=self._greedy)


def behind(held: Sequence[int], draft: Draft) -> Draft:
    """Return `draft` behind a chain of tokens that could not be sent."""
    parents = [*range(-1, len(held) - 1), *(parent + len(held) for parent in draft.parents)]
    distributions = (*[None] * len(held), *draft.distributions)
    return Draft((*held, *draft.token_ids), tuple(parents), distributions)


def align(draft: Draft, positions: Sequence[tuple[int | None, Row]]) -> list[Row | None]:
    """Give each node of `draft` the row that the target's own continuation has for it, if any.

    With a draft a b c and a continuation a x y, the rows after the context and after a are known:
    a was followed, and the row after it shows how likely b was although the target chose x.
    """
    rows: list[Row | None] = [None] * (len(draft) + 1)
    children = draft.children()
    node = -1
    for token_id, row in positions:
        rows[node + 1] = row
        followed = [child for child in children[node + 1] if draft.token_ids[child] == token_id]
        if not followed:
            break
        node = followed[0]
    return rows
