"""What a server writes by itself after a known prompt: the reference of every comparison.

On the way it shows how it wants to be asked: whether it takes token ids, names tokens by id, knows
the fields that a kind of server should know, how many alternatives it returns, and what its
log-probabilities mean at other temperatures than 1.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.targets.server.continuation import WritePrompt
from specdec.targets.server.endpoints import WHOLE_VOCABULARY
from specdec.targets.server.faults import HttpError, OnWait
from specdec.targets.server.http import Connection
from specdec.targets.server.noise import agree, difference, repeated
from specdec.targets.server.prompts import IdPrompt, TextPrompt
from specdec.targets.server.reader import Value
from specdec.targets.server.rows import Row, TokenNames
from specdec.targets.server.servers import Server
from specdec.targets.server.wire import COMPLETIONS_PATH, Dialect

PROMPT = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
NUM_WRITTEN = 4
NUM_COPIES = 5
_REFUSAL = {400, 404, 405, 415, 422, 500, 501}


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the server wrote at temperature 0, and how it was asked.

    Attributes:
        dialect: the wording it accepted.
        takes_ids: whether the prompt went as token ids.
        names_ids: whether the answer named tokens by id.
        num_prompt_tokens: as it counted them, None if it did not.
        chosen: the tokens it wrote; None where one cannot be told.
        rows: the model's own distributions, as far as they are known, from the first token on.
        greedy_is_raw: whether its log-probabilities at temperature 0 are the model's own.
        always_raw: whether they are so at every temperature.
        noise: the largest difference seen between two answers that should be the same, in nats.
    """

    dialect: Dialect
    takes_ids: bool
    names_ids: bool
    num_prompt_tokens: int | None
    chosen: tuple[int | None, ...]
    rows: tuple[Row, ...]
    greedy_is_raw: bool = True
    always_raw: bool = True
    noise: float = 0.0


class ReferenceWriter:
    """Lets one server write the reference, in the best wording it accepts."""

    def __init__(
        self, connection: Connection, tokenizer: Tokenizer, on_wait: OnWait | None
    ) -> None:
        self.prompt = tokenizer.encode(_unseen(PROMPT), add_special_tokens=True)
        self._connection = connection
        self._endpoint = connection.endpoint
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer)
        self._on_wait = on_wait

    def write(self, server: Server) -> Reference:
        """Return what the server writes.

        Raises:
            TargetError: it refuses every wording, or returns no log-probabilities.
        """
        refusal: TargetError | None = None
        for takes_ids in (True, False) if server.takes_ids else (False,):
            for id_fields in (server.id_fields, {}) if server.id_fields else ({},):
                fields = {**server.fields, **id_fields}
                dialect = Dialect(
                    self._endpoint.model,
                    self._names,
                    self._top_logprobs(server),
                    server.chat_logprobs,
                    fields,
                    server.any_model,
                )
                try:
                    reference = self._with_raw_rows(self._written(dialect, takes_ids))
                    return self._with_noise(reference)
                except HttpError as error:
                    if error.status not in _REFUSAL:
                        raise
                    refusal = refusal or error
        assert refusal is not None
        raise refusal

    def write_prompt(self, reference: Reference) -> WritePrompt:
        """Return how contexts are to be written for this server."""
        if reference.takes_ids:
            return IdPrompt()
        surplus = (reference.num_prompt_tokens or 0) - len(self.prompt)
        return TextPrompt(self._tokenizer, adds_start_token=surplus == 1)

    def _top_logprobs(self, server: Server) -> int:
        wanted = self._endpoint.top_logprobs
        if wanted == WHOLE_VOCABULARY:
            wanted = server.whole_vocabulary or self._tokenizer.vocab_size
        return min(wanted, server.max_top_logprobs or wanted)

    def _written(self, dialect: Dialect, takes_ids: bool) -> Reference:
        """Continue the prompt with one wording, lowering N to the cap that a refusal names."""
        try:
            body = self._generate(dialect, takes_ids, NUM_WRITTEN, 0.0)
        except HttpError as error:
            lowered = _lowered(dialect, error.said)
            if lowered is None:
                raise
            return self._written(lowered, takes_ids)
        (choice,) = dialect.choices(body, 1)
        positions = dialect.generated(choice, greedy=True)
        self._check(positions)
        told = choice["logprobs"]
        names_ids = told.has("content") or all(
            token.text().startswith("token_id:") for token in told["tokens"].items()
        )
        count = body.get("usage", "prompt_tokens").count()
        if takes_ids and count is not None and count != len(self.prompt):
            return self._written(dialect, takes_ids=False)
        chosen, rows = zip(*positions, strict=True)
        return Reference(dialect, takes_ids, names_ids, count, chosen, rows)

    def _check(self, positions: Sequence[tuple[int | None, Row]]) -> None:
        if all(len(row) and not row.logprobs.any() for _, row in positions):
            what = "zeros in place of log-probabilities" if positions else "no log-probabilities"
            raise TargetError(
                f"{self._endpoint.name} returns {what}, so it cannot verify drafts; choose another "
                "server or model."
            )

    def _with_raw_rows(self, written: Reference) -> Reference:
        """Replace what is not the model's own: at temperature 1 the numbers are so everywhere."""
        raw = self._first_row(written, 1.0)

        def against(temperature: float) -> list[float]:
            return repeated(lambda: [difference(self._first_row(written, temperature), raw)])

        greedy, cooler = [difference(written.rows[0], raw)], against(0.5)
        if not agree(greedy):
            greedy += against(0.0)
        same = [found for found in (greedy, cooler) if agree(found)]
        return replace(
            written,
            rows=(raw, *(written.rows[1:] if agree(greedy) else ())),
            greedy_is_raw=agree(greedy),
            always_raw=agree(cooler),
            noise=max(map(max, same), default=0.0),
        )

    def _with_noise(self, reference: Reference) -> Reference:
        """Ask for the same row twice: after a prompt read at once, and then from what is cached.

        The prompt is as long as those of real runs: short ones may take the same kernels either
        way.
        """

        def ask() -> list[float]:
            text = _unseen(" ".join([PROMPT] * NUM_COPIES))
            prompt = self._tokenizer.encode(text, add_special_tokens=True)
            rows = [self._first_row(reference, 1.0, prompt) for _ in range(2)]
            return [difference(*rows)]

        return replace(reference, noise=max(reference.noise, *repeated(ask)))

    def _first_row(
        self, written: Reference, temperature: float, prompt: Sequence[int] | None = None
    ) -> Row:
        body = self._generate(written.dialect, written.takes_ids, 1, temperature, prompt)
        positions = written.dialect.generated(*written.dialect.choices(body, 1))
        self._check(positions)
        return positions[0][1]

    def _generate(
        self,
        dialect: Dialect,
        takes_ids: bool,
        max_tokens: int,
        temperature: float,
        prompt: Sequence[int] | None = None,
    ) -> Value:
        ids = list(prompt or self.prompt)
        text, _ = TextPrompt(self._tokenizer, adds_start_token=False)(ids)
        request = dialect.request(ids if takes_ids else text, max_tokens, temperature)
        return self._connection.post(COMPLETIONS_PATH, request, self._on_wait).body


def _unseen(text: str) -> str:
    """Begin `text` in a way that no cache knows: what it remembers hides how answers vary."""
    return f"{secrets.randbelow(10**6):06d}. {text}"


def _lowered(dialect: Dialect, said: str) -> Dialect | None:
    """Return the dialect that a refusal of log-probabilities hints at, None if it does not."""
    if "logprobs" not in said:
        return None
    if "bool" in said and not dialect.chat_logprobs:
        return replace(dialect, chat_logprobs=True)
    numbers = {int(number) for number in re.findall(r"\d+", said)}
    asked = dialect.top_logprobs
    if asked == WHOLE_VOCABULARY:
        asked = max(numbers, default=1)  # the refusal repeats it as a number
    cap = max((number for number in numbers if 1 < number < asked), default=1)
    return replace(dialect, top_logprobs=cap) if asked > 1 else None
