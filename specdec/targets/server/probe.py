"""What a server can really do, found out by asking it; no HTTP 200 is trusted.

The server writes a few tokens after a known prompt. Whatever claims to score drafts must then give
the very same distributions for the very same tokens: ignored echoes, zeros in place of
log-probabilities, rows shifted by one and prompts tokenised again all fail this one comparison.
A server whose own numbers vary is compared several times, and the variation is told. What passes is
timed on a longer prompt, and the faster wins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from specdec.acceptance import Draft
from specdec.errors import TargetError
from specdec.models.tokenizer import Tokenizer
from specdec.targets.server.capabilities import Capabilities
from specdec.targets.server.continuation import WritePrompt
from specdec.targets.server.endpoints import WHOLE_VOCABULARY
from specdec.targets.server.faults import HttpError, OnWait
from specdec.targets.server.http import Connection
from specdec.targets.server.noise import agree, difference, noise_words, repeated
from specdec.targets.server.reader import Value
from specdec.targets.server.reference import NUM_WRITTEN, Reference, ReferenceWriter
from specdec.targets.server.rows import MAX_PADDING, Row
from specdec.targets.server.servers import (
    CONTINUATION,
    NATIVE_IDS,
    SERVERS,
    Server,
    make_protocol,
    recognise,
)
from specdec.targets.server.wire import WireProtocol

TIMED_PROMPT_TOKENS = 128
TIMED_REPEATS = 3
RTT_REPEATS = 3
DEFAULT_CONTEXT_LENGTH = 8192
MAX_CONTEXT_LENGTH = 10**8
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


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A wording that works, with the rows it gave for the reference's tokens.

    `noise` is the largest difference seen from what the server writes by itself, in nats.
    """

    protocol: WireProtocol
    rows: Sequence[Row]
    noise: float


Candidates = Mapping[str, Candidate]


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
        self.refusals: list[tuple[str, str]] = []

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
            CONTINUATION: Candidate(continuation, reference.rows, reference.noise),
        }
        form, seconds = self.choose(candidates, server)
        chosen = candidates[form]
        noise = max(chosen.noise, reference.noise)
        self.note("noise", noise_words(noise))
        names_ids = reference.names_ids or form in NATIVE_IDS
        top_logprobs, vocab_size = self.measure(reference, chosen.rows, names_ids)
        capabilities = Capabilities(
            server=server.title,
            protocol=chosen.protocol.name,
            form=form,
            takes_ids=reference.takes_ids,
            names_ids=names_ids,
            top_logprobs=top_logprobs,
            vocab_size=vocab_size,
            context_length=self.endpoint.context_length or context_length,
            rtt_s=self.round_trip_s(server),
            score_s=seconds.get("score"),
            prefixes_s=seconds.get("prefixes"),
            noise=noise,
            padding=MAX_PADDING if names_ids and top_logprobs < vocab_size else 0,
        )
        return Probed(
            capabilities, chosen.protocol, write_prompt, tuple(self.findings), server.advice
        )

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
        listed = reply.body.get("data")
        models = listed.items() if listed else []
        if kind == "auto":
            kind = recognise(reply.headers, models)
        model = self.listed_model(models, SERVERS[kind])
        told = (model.get("max_model_len"), model.get("meta", "n_ctx"))
        lengths = (length.count(MAX_CONTEXT_LENGTH) for length in told)
        return kind, next((length for length in lengths if length), DEFAULT_CONTEXT_LENGTH)

    def listed_model(self, models: Sequence[Value], server: Server) -> Value:
        """Return what the list says of the endpoint's model, null where it need not say anything.

        Raises:
            TargetError: the server has other models only.
        """
        known = {model["id"].text(): model for model in models}
        asked = self.endpoint.model
        if asked in known or not known:
            return known.get(asked, Value(None))
        if server.any_model:
            (model, *others) = models
            return Value(None) if others else model
        names = ", ".join(model["id"].shown() for model in models[:5])
        raise TargetError(
            f"{self.endpoint.name} serves {names}, but no {asked}; correct the endpoint's model."
        )

    def check_forms(self, server: Server, reference: Reference) -> Candidates:
        """Return the wordings that give the reference's rows."""
        candidates: dict[str, Candidate] = {}
        if not reference.takes_ids:
            self.refuse("scores of drafts", "not asked for: as text a draft may be cut differently")
            return candidates
        for form in server.forms:
            protocol = make_protocol(form, reference.dialect)
            try:
                candidates[form] = self.compared(protocol, reference)
            except TargetError as error:
                if isinstance(error, HttpError) and error.status in _FATAL:
                    raise
                self.refuse(form, f"no: {error}", protocol.name)
            else:
                self.note(form, "yes: it agrees with what the server writes by itself")
        return candidates

    def refuse(self, question: str, answer: str, protocol: str = "") -> None:
        """Note that something cannot be done, and remember why for whoever asks for it by name."""
        self.note(question, answer)
        self.refusals.append((protocol, f"{question}: {answer.removeprefix('no: ')}"))

    def compared(self, protocol: WireProtocol, reference: Reference) -> Candidate:
        """Have what the server wrote scored as a draft, and return the rows if they agree.

        Raises:
            TargetError: they do not, or the server cannot do it.
        """
        expected = reference.rows
        written = [token_id for token_id in reference.chosen[:-1] if token_id is not None]
        if len(written) < len(reference.chosen) - 1:
            expected = expected[:1]  # what follows are no longer the same tokens
        draft = Draft.chain(written or self.prompt[1:NUM_WRITTEN])
        scored: list[list[Row]] = []

        def ask() -> list[float]:
            answer = protocol.ask(self.connection, self.prompt, draft, self.on_wait)
            rows = [row for row in answer.rows if row is not None]
            if len(rows) < len(draft) + 1:
                raise TargetError("The server left positions out.")
            scored.append(rows)
            return list(map(difference, rows, expected))

        differences = repeated(ask)
        if agree(differences, reference.noise):
            return Candidate(protocol, scored[-1], max(differences))
        shifted = [d for rows in scored for d in map(difference, rows, expected[1:])]
        if shifted and agree(shifted, reference.noise):
            raise TargetError("Its scores of a prompt are shifted by one token.")
        off = f"{median(differences):.2g} nats" if median(differences) < float("inf") else "all"
        raise TargetError(
            "Its scores of a prompt are not those of what it writes by itself "
            f"(median difference over positions and repetitions: {off})."
        )

    def choose(self, candidates: Candidates, server: Server) -> tuple[str, dict[str, float]]:
        """Return the wording to use and, where there was a choice, the seconds of each protocol."""
        asked = self.endpoint.protocol
        forms = [form for form, c in candidates.items() if asked in ("auto", c.protocol.name)]
        if not forms:
            raise TargetError(
                f"{self.endpoint.name} cannot verify by {asked}; set its protocol to auto. The "
                f"reason: {self.why_not(asked, server)}."
            )
        if asked == "auto" and len(forms) > 1:
            forms.remove(CONTINUATION)
        if len(forms) == 1:
            return forms[0], {}
        times = self.timed({form: candidates[form].protocol for form in forms})
        fastest_first = sorted(forms, key=times.__getitem__)
        seconds: dict[str, float] = {}
        for form in fastest_first:
            seconds.setdefault(candidates[form].protocol.name, times[form])
        words = ", ".join(f"{name} {seconds[name] * 1e3:.0f} ms" for name in seconds)
        best = fastest_first[0]
        self.note("verification of four tokens", f"{words}: {candidates[best].protocol.name} it is")
        return best, seconds

    def why_not(self, protocol: str, server: Server) -> str:
        reasons = [why.rstrip(".") for name, why in self.refusals if name in (protocol, "")]
        return "; ".join(reasons) or f"{server.title} has no way of asking for it"

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
