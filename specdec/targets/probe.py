"""What a server can really do, found out by asking it; no HTTP 200 is trusted.

The server writes a few tokens after a known prompt. Whatever claims to score drafts must then give
the very same distributions for the very same tokens: ignored echoes, zeros in place of
log-probabilities, rows shifted by one and prompts tokenised again all fail this one comparison.
What passes is timed on a longer prompt, and the faster wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from specdec.endpoints import WHOLE_VOCABULARY
from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.records import Draft
from specdec.targets.capabilities import Capabilities
from specdec.targets.continuation import WritePrompt
from specdec.targets.faults import HttpError, OnWait
from specdec.targets.http import Connection
from specdec.targets.prompts import IdPrompt, TextPrompt
from specdec.targets.rows import Row, TokenNames
from specdec.targets.servers import (
    CONTINUATION,
    NATIVE_IDS,
    SERVERS,
    Server,
    make_protocol,
    recognise,
)
from specdec.targets.wire import COMPLETIONS_PATH, Dialect, WireProtocol, in_order, reading

PROMPT = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
NUM_WRITTEN = 4
TIMED_PROMPT_TOKENS = 128
TIMED_REPEATS = 3
RTT_REPEATS = 3
DEFAULT_CONTEXT_LENGTH = 8192
TOLERANCE = 0.2
"""The largest difference, in nats, of two computations of one log-probability: batches and kernels
move it by some hundredths, another position by whole nats."""
_COMPARED = 5
_FATAL = {401, 402, 403, 429}
_REFUSAL = {400, 404, 405, 415, 422, 500, 501}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the probe found out, in words."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Probed:
    """What the probe brings back: facts, the protocol to use, and the findings behind them.

    `write_prompt` turns token ids into what the server reads; `advice` is what this kind of server
    is known to need when it fails.
    """

    capabilities: Capabilities
    protocol: WireProtocol
    write_prompt: WritePrompt
    findings: tuple[Finding, ...]
    advice: str


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """What the server wrote after the probe's prompt: the reference of every comparison."""

    dialect: Dialect
    takes_ids: bool
    names_ids: bool
    num_prompt_tokens: int | None
    chosen: tuple[int | None, ...]
    rows: tuple[Row, ...]


def probe(connection: Connection, tokenizer: Tokenizer, on_wait: OnWait | None = None) -> Probed:
    """Find out how the model behind `connection`, with this `tokenizer`, verifies drafts.

    Takes some ten short requests, and some more where two protocols are to be compared.

    Raises:
        TargetError: the server cannot be reached, or cannot verify at all.
    """
    return _Prober(connection, tokenizer, on_wait).run()


class _Prober:
    """One look at one server, step by step; `findings` grows with each."""

    def __init__(
        self, connection: Connection, tokenizer: Tokenizer, on_wait: OnWait | None
    ) -> None:
        self.connection = connection
        self.endpoint = connection.endpoint
        self.tokenizer = tokenizer
        self.on_wait = on_wait
        self.names = TokenNames(tokenizer)
        self.prompt = tokenizer.encode(PROMPT, add_special_tokens=True)
        self.findings: list[Finding] = []

    def run(self) -> Probed:
        kind, context_length = self.look()
        server = SERVERS[kind]
        written = self.write(server)
        reference, greedy_is_raw = self.check_temperature(written)
        write_prompt = self.prompt_writer(written)
        continuation = make_protocol(
            CONTINUATION, written.dialect, write_prompt, greedy=greedy_is_raw
        )
        candidates = self.check_forms(server, written, reference)
        candidates[CONTINUATION] = continuation, reference
        form, times = self.choose(candidates)
        protocol, rows = candidates[form]
        names_ids = written.names_ids or form in NATIVE_IDS
        fewest = min(map(len, rows))
        whole = names_ids and fewest >= self.tokenizer.vocab_size
        top_logprobs = self.wanted(written.dialect)
        if names_ids:
            top_logprobs = fewest if whole else min(fewest, top_logprobs)
        highest_id = max(int(row.token_ids.max(initial=-1)) for row in rows)
        capabilities = Capabilities(
            server=server.title,
            protocol=protocol.name,
            form=form,
            takes_ids=written.takes_ids,
            names_ids=names_ids,
            top_logprobs=top_logprobs,
            vocab_size=highest_id + 1 if whole else self.tokenizer.vocab_size,
            context_length=self.endpoint.context_length or context_length,
            rtt_s=self.round_trip_s(server),
            score_s=times.get("score"),
            prefixes_s=times.get("prefixes"),
        )
        self.note("alternatives per position", f"{top_logprobs:,}")
        return Probed(capabilities, protocol, write_prompt, tuple(self.findings), server.advice)

    def note(self, question: str, answer: str) -> None:
        self.findings.append(Finding(question, answer))

    def look(self) -> tuple[str, int]:
        """Return the kind of the server and its context length, if its model list tells them."""
        kind = self.endpoint.server
        try:
            reply = self.connection.get(SERVERS[kind].health_path)
        except HttpError as error:
            if error.status in _FATAL or error.status >= 500:
                raise
            return kind, DEFAULT_CONTEXT_LENGTH  # no model list, which is nobody's duty
        if kind == "auto":
            kind = recognise(reply.headers, reply.body)
        models = reply.body.get("data") if isinstance(reply.body, dict) else None
        with reading():
            known = {str(model["id"]): model for model in models or ()}
            if known and kind != "mlx" and self.endpoint.model not in known:
                raise TargetError(
                    f"{self.endpoint.name} serves {', '.join(list(known)[:5])}, but no "
                    f"{self.endpoint.model}; correct the endpoint's model."
                )
            model = known.get(self.endpoint.model, {})
            length = model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx")
            return kind, int(length or DEFAULT_CONTEXT_LENGTH)

    def write(self, server: Server) -> _Written:
        """Let the server continue the prompt, in the best wording that it accepts."""
        refusal: TargetError | None = None
        sent = self.endpoint.top_logprobs
        if sent == WHOLE_VOCABULARY and server.whole_vocabulary is None:
            sent = self.tokenizer.vocab_size
        if server.max_top_logprobs is not None:
            sent = min(sent, server.max_top_logprobs)
        for takes_ids in (True, False) if server.takes_ids else (False,):
            for id_fields in (server.id_fields, {}) if server.id_fields else ({},):
                fields = {**server.fields, **id_fields}
                dialect = Dialect(
                    self.endpoint.model, self.names, sent, server.chat_logprobs, fields
                )
                try:
                    return self.written(dialect, takes_ids)
                except HttpError as error:
                    if error.status not in _REFUSAL:
                        raise
                    refusal = refusal or error
        assert refusal is not None
        raise refusal

    def written(self, dialect: Dialect, takes_ids: bool) -> _Written:
        """Continue the prompt with one wording, lowering N to the cap that a refusal names."""
        try:
            body = self.generate(dialect, takes_ids, NUM_WRITTEN, 0.0)
        except HttpError as error:
            lowered = _lowered(dialect, error.said)
            if lowered is None:
                raise
            return self.written(lowered, takes_ids)
        with reading():
            (choice,) = in_order(body, 1)
            positions = dialect.generated(choice, greedy=True)
            if not positions:
                raise TargetError(
                    f"{self.endpoint.name} returns no log-probabilities, so it cannot verify "
                    "drafts; choose another server or model."
                )
            if all(len(row) and not row.logprobs.any() for _, row in positions):
                raise TargetError(
                    f"{self.endpoint.name} returns zeros in place of log-probabilities, so it "
                    "cannot verify drafts; choose another server or model."
                )
            logprobs = choice["logprobs"]
            names_ids = "content" in logprobs or all(
                str(token).startswith("token_id:") for token in logprobs["tokens"]
            )
            count = (body.get("usage") or {}).get("prompt_tokens")
        if takes_ids and count is not None and count != len(self.prompt):
            return self.written(dialect, takes_ids=False)
        self.note("prompts as token ids", "yes" if takes_ids else "no: text only")
        self.note("tokens named by id", "yes" if names_ids else "no: by their text")
        chosen, rows = zip(*positions, strict=True)
        return _Written(dialect, takes_ids, names_ids, count, chosen, rows)

    def generate(
        self, dialect: Dialect, takes_ids: bool, max_tokens: int, temperature: float
    ) -> Any:
        text = TextPrompt(self.tokenizer, adds_start_token=False)
        prompt = self.prompt if takes_ids else text(self.prompt)[0]
        request = dialect.request(prompt, max_tokens, temperature)
        return self.connection.post(COMPLETIONS_PATH, request, self.on_wait).body

    def check_temperature(self, written: _Written) -> tuple[list[Row], bool]:
        """Return the model's own rows, and whether what is written at temperature 0 shows them.

        At temperature 1 they are the model's own on every server.
        """
        rows = {0.0: written.rows[0]}
        for temperature in (1.0, 0.5):
            body = self.generate(written.dialect, written.takes_ids, 1, temperature)
            with reading():
                rows[temperature] = written.dialect.generated(*in_order(body, 1))[0][1]
        own = _difference(rows[0.5], rows[1.0]) <= TOLERANCE
        self.note(
            "log-probabilities",
            "the model's own at every temperature" if own else "after temperature: asked at 1",
        )
        greedy_is_raw = _difference(rows[0.0], rows[1.0]) <= TOLERANCE
        return [rows[1.0], *(written.rows[1:] if greedy_is_raw else ())], greedy_is_raw

    def check_forms(
        self, server: Server, written: _Written, reference: Sequence[Row]
    ) -> dict[str, tuple[WireProtocol, Sequence[Row]]]:
        """Return the wordings that give the reference's rows, with the rows they gave."""
        candidates: dict[str, tuple[WireProtocol, Sequence[Row]]] = {}
        for form in server.forms if written.takes_ids else ():
            protocol = make_protocol(form, written.dialect)
            try:
                rows = self.compared(protocol, written.chosen, reference)
            except TargetError as error:
                if isinstance(error, HttpError) and error.status in _FATAL:
                    raise
                self.note(form, f"no: {error}")
            else:
                self.note(form, "yes: it agrees with what the server writes by itself")
                candidates[form] = protocol, rows
        return candidates

    def prompt_writer(self, written: _Written) -> WritePrompt:
        if written.takes_ids:
            return IdPrompt()
        surplus = (written.num_prompt_tokens or 0) - len(self.prompt)
        if surplus == 1:
            self.note("start token", "added to every text by the server")
        return TextPrompt(self.tokenizer, adds_start_token=surplus == 1)

    def compared(
        self,
        protocol: WireProtocol,
        written: Sequence[int | None],
        reference: Sequence[Row],
    ) -> list[Row]:
        """Have what the server wrote scored as a draft, and return the rows if they agree.

        Raises:
            TargetError: they do not, or the server cannot do it.
        """
        drafted = [token_id for token_id in written[:-1] if token_id is not None]
        if len(drafted) < len(written) - 1:
            reference = reference[:1]  # no longer the same tokens
        draft = Draft.chain(drafted or self.prompt[1:NUM_WRITTEN])
        answer = protocol.ask(self.connection, self.prompt, draft, self.on_wait)
        rows = [row for row in answer.rows if row is not None]
        if len(rows) < len(draft) + 1:
            raise TargetError("The server left positions out.")
        if max(map(_difference, rows, reference)) <= TOLERANCE:
            return rows
        if len(reference) > 1 and max(map(_difference, rows, reference[1:])) <= TOLERANCE:
            raise TargetError("Its scores of a prompt are shifted by one token.")
        raise TargetError("Its scores of a prompt are not those of what it writes by itself.")

    def choose(
        self, candidates: dict[str, tuple[WireProtocol, Sequence[Row]]]
    ) -> tuple[str, dict[str, float]]:
        """Return the wording to use and, where there was a choice, the seconds of each protocol."""
        asked = self.endpoint.protocol
        forms = [form for form, (p, _) in candidates.items() if asked in ("auto", p.name)]
        if not forms:
            raise TargetError(
                f"{self.endpoint.name} cannot verify by {asked}; set its protocol to auto."
            )
        if asked == "auto" and len(forms) > 1:
            forms.remove(CONTINUATION)
        if len(forms) == 1:
            return forms[0], {}
        seconds = self.timed({form: candidates[form][0] for form in forms})
        best = min(forms, key=seconds.__getitem__)
        times: dict[str, float] = {}
        for form in sorted(forms, key=seconds.__getitem__):
            times.setdefault(candidates[form][0].name, seconds[form])
        words = ", ".join(f"{name} {times[name] * 1e3:.0f} ms" for name in times)
        self.note("verification of four tokens", f"{words}: {candidates[best][0].name} it is")
        return best, times

    def timed(self, protocols: dict[str, WireProtocol]) -> dict[str, float]:
        """Return the shortest of some calls of each protocol, taken in turns, the first dropped."""
        copies = TIMED_PROMPT_TOKENS // len(self.prompt) + 1
        context = (self.prompt * copies)[:TIMED_PROMPT_TOKENS]
        draft = Draft.chain(self.prompt[1 : 1 + NUM_WRITTEN])
        calls: dict[str, list[float]] = {form: [] for form in protocols}
        for _ in range(1 + TIMED_REPEATS):
            for form, protocol in protocols.items():
                answer = protocol.ask(self.connection, context, draft, self.on_wait)
                calls[form].append(answer.call_s)
        return {form: min(times[1:]) for form, times in calls.items()}

    def round_trip_s(self, server: Server) -> float:
        """Return the shortest of some requests that make the server do next to nothing."""
        trips = [self.connection.get(server.health_path).call_s for _ in range(RTT_REPEATS)]
        return min(trips)

    def wanted(self, dialect: Dialect) -> int:
        """Return how many alternatives the dialect asks for."""
        whole = dialect.top_logprobs == WHOLE_VOCABULARY
        return self.tokenizer.vocab_size if whole else dialect.top_logprobs


def _difference(left: Row, right: Row) -> float:
    """Return the largest difference between the likeliest log-probabilities of two rows."""
    known = dict(zip(right.token_ids.tolist(), right.logprobs.tolist(), strict=True))
    pairs = zip(left.token_ids[:_COMPARED].tolist(), left.logprobs.tolist(), strict=False)
    differences = [abs(value - known[index]) for index, value in pairs if index in known]
    enough = (min(len(left), len(right), _COMPARED) + 1) // 2
    return max(differences) if differences and len(differences) >= enough else float("inf")


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
