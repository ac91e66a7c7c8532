"""What a server can really do, found out by asking it; no HTTP 200 is trusted.

The server writes a few tokens after a known prompt. Whatever claims to score drafts must then give
the very same distributions for the very same tokens: ignored echoes, zeros in place of
log-probabilities, rows shifted by one and prompts tokenised again all fail this one comparison.
What passes is timed on a longer prompt, and the faster wins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.targets.server.capabilities import Capabilities
from specdec.targets.server.continuation import WritePrompt
from specdec.targets.server.endpoints import WHOLE_VOCABULARY
from specdec.targets.server.faults import HttpError, OnWait
from specdec.targets.server.http import Connection
from specdec.targets.server.reference import (
    NUM_WRITTEN,
    TOLERANCE,
    Reference,
    ReferenceWriter,
    difference,
)
from specdec.targets.server.rows import Row
from specdec.targets.server.servers import (
    CONTINUATION,
    NATIVE_IDS,
    SERVERS,
    Server,
    make_protocol,
    recognise,
)
from specdec.targets.server.wire import WireProtocol, reading

TIMED_PROMPT_TOKENS = 128
TIMED_REPEATS = 3
RTT_REPEATS = 3
DEFAULT_CONTEXT_LENGTH = 8192
_FATAL = {401, 402, 403, 429}


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


Candidates = Mapping[str, tuple[WireProtocol, Sequence[Row]]]
"""Wordings that work, with the rows they gave for the reference's tokens."""


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
        self.vocab_size = tokenizer.vocab_size
        self.writer = ReferenceWriter(connection, tokenizer, on_wait)
        self.prompt = self.writer.prompt
        self.on_wait = on_wait
        self.findings: list[Finding] = []

    def run(self) -> Probed:
        kind, context_length = self.look()
        server = SERVERS[kind]
        reference = self.writer.write(server)
        write_prompt = self.writer.write_prompt(reference)
        self.note_reference(reference)
        continuation = make_protocol(
            CONTINUATION, reference.dialect, write_prompt, greedy=reference.greedy_is_raw
        )
        candidates = {
            **self.check_forms(server, reference),
            CONTINUATION: (continuation, reference.rows),
        }
        form, seconds = self.choose(candidates)
        protocol, rows = candidates[form]
        names_ids = reference.names_ids or form in NATIVE_IDS
        top_logprobs, vocab_size = self.measure(reference, rows, names_ids)
        capabilities = Capabilities(
            server=server.title,
            protocol=protocol.name,
            form=form,
            takes_ids=reference.takes_ids,
            names_ids=names_ids,
            top_logprobs=top_logprobs,
            vocab_size=vocab_size,
            context_length=self.endpoint.context_length or context_length,
            rtt_s=self.round_trip_s(server),
            score_s=seconds.get("score"),
            prefixes_s=seconds.get("prefixes"),
        )
        return Probed(capabilities, protocol, write_prompt, tuple(self.findings), server.advice)

    def note(self, question: str, answer: str) -> None:
        self.findings.append(Finding(question, answer))

    def note_reference(self, reference: Reference) -> None:
        raw = "the model's own at every temperature"
        self.note("prompts as token ids", "yes" if reference.takes_ids else "no: text only")
        self.note("start token before a prompt", self.start_token_words(reference))
        self.note("tokens named by id", "yes" if reference.names_ids else "no: by their text")
        self.note(
            "log-probabilities",
            raw if reference.always_raw else "after temperature: asked at 1, the model's own",
        )

    def start_token_words(self, reference: Reference) -> str:
        if reference.num_prompt_tokens is None:
            return "not told: the server counts no tokens"
        surplus = reference.num_prompt_tokens - len(self.prompt)
        words = {0: "none added", 1: "added by the server, and left out of what it is sent"}
        return words.get(surplus, f"not clear: the server counts {surplus:+d} tokens")

    def look(self) -> tuple[str, int]:
        """Return the kind of the server and its context length, if its model list tells them."""
        kind = self.endpoint.server
        try:
            reply = self.connection.get(SERVERS[kind].health_path)
        except HttpError as error:
            if error.status in _FATAL or error.status >= 500:
                raise
            return kind, DEFAULT_CONTEXT_LENGTH  # no model list, which is nobody's duty
        models = reply.body.get("data") if isinstance(reply.body, dict) else None
        with reading():
            if kind == "auto":
                kind = recognise(reply.headers, reply.body)
            known = {str(model["id"]): model for model in models or ()}
            if known and kind != "mlx" and self.endpoint.model not in known:
                raise TargetError(
                    f"{self.endpoint.name} serves {', '.join(list(known)[:5])}, but no "
                    f"{self.endpoint.model}; correct the endpoint's model."
                )
            model = known.get(self.endpoint.model, {})
            length = model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx")
            return kind, int(length or DEFAULT_CONTEXT_LENGTH)

    def check_forms(self, server: Server, reference: Reference) -> Candidates:
        """Return the wordings that give the reference's rows."""
        candidates: dict[str, tuple[WireProtocol, Sequence[Row]]] = {}
        if not reference.takes_ids:
            self.note("scores of drafts", "not asked for: as text a draft may be cut differently")
            return candidates
        for form in server.forms:
            protocol = make_protocol(form, reference.dialect)
            try:
                candidates[form] = protocol, self.compared(protocol, reference)
            except TargetError as error:
                if isinstance(error, HttpError) and error.status in _FATAL:
                    raise
                self.note(form, f"no: {error}")
            else:
                self.note(form, "yes: it agrees with what the server writes by itself")
        return candidates

    def compared(self, protocol: WireProtocol, reference: Reference) -> list[Row]:
        """Have what the server wrote scored as a draft, and return the rows if they agree.

        Raises:
            TargetError: they do not, or the server cannot do it.
        """
        expected = reference.rows
        written = [token_id for token_id in reference.chosen[:-1] if token_id is not None]
        if len(written) < len(reference.chosen) - 1:
            expected = expected[:1]  # what follows are no longer the same tokens
        draft = Draft.chain(written or self.prompt[1:NUM_WRITTEN])
        answer = protocol.ask(self.connection, self.prompt, draft, self.on_wait)
        rows = [row for row in answer.rows if row is not None]
        if len(rows) < len(draft) + 1:
            raise TargetError("The server left positions out.")
        if max(map(difference, rows, expected)) <= TOLERANCE:
            return rows
        if len(expected) > 1 and max(map(difference, rows, expected[1:])) <= TOLERANCE:
            raise TargetError("Its scores of a prompt are shifted by one token.")
        raise TargetError("Its scores of a prompt are not those of what it writes by itself.")

    def choose(self, candidates: Candidates) -> tuple[str, dict[str, float]]:
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
        times = self.timed({form: candidates[form][0] for form in forms})
        fastest_first = sorted(forms, key=times.__getitem__)
        seconds: dict[str, float] = {}
        for form in fastest_first:
            seconds.setdefault(candidates[form][0].name, times[form])
        words = ", ".join(f"{name} {seconds[name] * 1e3:.0f} ms" for name in seconds)
        best = fastest_first[0]
        self.note("verification of four tokens", f"{words}: {candidates[best][0].name} it is")
        return best, seconds

    def timed(self, protocols: Mapping[str, WireProtocol]) -> dict[str, float]:
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

    def measure(
        self, reference: Reference, rows: Sequence[Row], names_ids: bool
    ) -> tuple[int, int]:
        """Return how many alternatives come back, and the size of the target's vocabulary."""
        wanted = reference.dialect.top_logprobs
        top_logprobs = self.vocab_size if wanted == WHOLE_VOCABULARY else wanted
        vocab_size = self.vocab_size
        if names_ids:
            fewest = min(map(len, rows))
            top_logprobs = min(fewest, top_logprobs)
            if fewest >= vocab_size:  # the whole vocabulary, a padded head included
                top_logprobs = fewest
                vocab_size = max(int(row.token_ids.max()) for row in rows) + 1
        self.note("alternatives per position", f"{top_logprobs:,}")
        return top_logprobs, vocab_size

    def round_trip_s(self, server: Server) -> float:
        """Return the shortest of some requests that make the server do next to nothing."""

        def trip_s() -> float:
            began_s = time.perf_counter()
            with suppress(HttpError):  # a refusal makes the trip as well
                self.connection.get(server.health_path)
            return time.perf_counter() - began_s

        return min(trip_s() for _ in range(RTT_REPEATS))
