"""The server's own streaming as an arm: what a user has without us, its own speculation included.

Such a run has totals and no rounds. What its server counted of its own speculation (vLLM's
`/metrics`, before and after) stands where an arm of ours has its acceptance by position.
"""

from __future__ import annotations

from specdec.errors import SettingsError
from specdec.pair import Load, check_prompt
from specdec.records import FinishReason, RunSummary
from specdec.runs.machine import describe_environment
from specdec.runs.run import ModelInfo, Run, utc_now
from specdec.settings import RunConfig
from specdec.targets.server.own_speculation import OwnSpeculation
from specdec.targets.server.streaming import StreamingBaseline, measure_streaming

_NOTHING = OwnSpeculation(0, 0, 0, ())


def stream_run(config: RunConfig, prompt: str, load: Load) -> Run:
    """Have a server stream its answer to `prompt`, and return that as a run.

    Raises:
        SettingsError: the target is no server, or an emulated link is asked for, which cannot be
            put between a server and its own streaming.
        TargetError: the server cannot be reached, or streams nothing.
    """
    check_prompt(prompt)
    remote = load(config.target, config.place).remote
    if remote is None:
        raise SettingsError("Only a target behind a server streams by itself.")
    if config.rtt_ms:
        raise SettingsError("A server's own streaming cannot be measured over an emulated link.")
    prompt_ids = remote.tokenizer.apply_chat_template([{"role": "user", "content": prompt}])
    started_at = utc_now()
    streamed = measure_streaming(remote, prompt_ids, config.sampler, config.max_tokens)
    return Run(
        config=config,
        prompt=prompt,
        prompt_ids=tuple(prompt_ids),
        target=ModelInfo(remote.name),
        draft=ModelInfo("the server's own"),
        backend=remote.backend,
        exactness="whatever the server writes by itself",
        link_is_emulated=False,
        environment=describe_environment(),
        started_at=started_at,
        rounds=(),
        pieces=(streamed.text,),
        token_texts={},
        summary=_summary(streamed, len(prompt_ids), config.max_tokens),
    )


def _summary(streamed: StreamingBaseline, num_prompt_tokens: int, max_tokens: int) -> RunSummary:
    """Return totals; the first token's time holds the prompt's reading and one token's writing."""
    own = streamed.speculation or _NOTHING
    num_tokens = streamed.num_tokens
    token_s = (streamed.wall_s - streamed.ttft_s) / max(1, num_tokens - 1)
    prefill_s = max(0.0, streamed.ttft_s - token_s)
    plain_steps = max(0, num_tokens - own.num_drafts - own.num_accepted_tokens)
    is_cut = num_tokens >= max_tokens
    return RunSummary(
        finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
        num_prompt_tokens=num_prompt_tokens,
        num_tokens=num_tokens,
        num_spec_steps=own.num_drafts,
        num_target_calls=own.num_drafts + plain_steps,
        num_draft_tokens=own.num_draft_tokens,
        num_accepted_draft_tokens=own.num_accepted_tokens,
        acceptance_histogram=own.histogram if own.num_drafts else (),
        accepted_per_pos=own.accepted_per_pos,
        drafted_per_pos=(),
        prefill_s=prefill_s,
        draft_s=0.0,
        verify_s=streamed.wall_s - prefill_s,
        link_s=0.0,
        retry_s=0.0,
        sample_s=0.0,
        wall_s=streamed.wall_s,
        ttft_s=streamed.ttft_s,
    )
