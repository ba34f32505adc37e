"""lm-eval's LM over any backend session: text in, requests of token ids out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from bitnet_bench.errors import BenchError
from bitnet_bench.ports import Progress, Session

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class SessionLM(TemplateLM):
    """Scores lm-eval requests with a session. Splitting text into context and continuation is lm-eval's own code.

    A request longer than the session's context loses tokens on the left of its context, as in lm-eval's `hf`
    model; `counts` says how many did.
    """

    def __init__(self, session: Session, progress: Progress) -> None:
        super().__init__()
        self._session, self._progress = session, progress
        self.tokenizer = session.tokenizer
        self.counts = {"requests": 0, "truncated": 0}

    @property
    def eot_token_id(self) -> int:
        """Return the id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Return the id that an empty context stands for."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Return what lm-eval names prompts by that were made with this tokenizer's template."""
        return str(self.tokenizer.name_or_path)

    @property
    def template(self) -> str:
        """Return the checkpoint's chat template; BenchError where it has none."""
        if not self.tokenizer.chat_template:
            raise BenchError(
                "The checkpoint has no chat template, and --chat-template asks through one.",
                "Leave --chat-template out, or use a checkpoint whose tokenizer has one (chat_template.jinja).",
            )
        return str(self.tokenizer.chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as the checkpoint's template writes it, up to where the answer begins."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return ids; special tokens as the tokenizer adds them, and no second BOS where the text has one."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))
        # quiet about length: what does not fit is cut, and counted, here
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
        return ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, greedy) of each request's continuation."""
        return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        longest = self._session.max_length + 1  # the last token is predicted, not read
        pairs = []
        for _text, context, continuation in requests:
            room = longest - len(continuation)
            if room < 1:
                raise BenchError(
                    f"A choice of {len(continuation)} tokens exceeds the model's context of {longest - 1}.",
                    "Use a checkpoint with a longer context, or leave this task out with --task.",
                )
            self.counts["truncated"] += len(context) > room
            pairs.append((context[max(0, len(context) - room) :], continuation))
        self.counts["requests"] += len(pairs)
        return self._session.loglikelihood(pairs, self._progress)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows of the session's context."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        texts = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._session.max_length,
                context_len=1,
            )
            texts.append([(None, *make_disjoint_window(window)) for window in windows])
        scored = iter(self._loglikelihood_tokens([pair for pairs in texts for pair in pairs]))
        return [sum(next(scored)[0] for _ in pairs) for pairs in texts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations; requests with the same stops and limit share one call.

        A prompt keeps at least half of the session's context, whatever the task allows the answer.
        """
        outputs = [""] * len(requests)
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for i, request in enumerate(requests):
            options = normalize_gen_kwargs(dict(request.args[1]), default_max_gen_toks=256)
            stops = handle_stop_sequences(options["until"], eos=None)
            groups.setdefault((tuple(stops), int(options["max_gen_toks"])), []).append(i)
        for (stops, limit), members in groups.items():
            limit = min(limit, self._session.max_length // 2)
            room = self._session.max_length - limit
            prompts = []
            for i in members:
                ids = self.tok_encode(requests[i].args[0])
                self.counts["truncated"] += len(ids) > room
                prompts.append(ids[max(0, len(ids) - room) :])
            self.counts["requests"] += len(prompts)
            for i, text in zip(members, self._session.generate(prompts, limit, stops, self._progress), strict=True):
                outputs[i] = text
        return outputs
