"""vLLM's side of `benchmarks/expand.py`; runs under an interpreter that has vLLM, which wants an environment of its own.

Reads JSON lines. The first one is the job: model, prompts (ids), tokens of each reply, block size, and whether to compile.
Each further one asks for replies to every prompt: how many, the temperature, and whether the prefix cache is emptied before.
Answers each ask with a line: the replies' ids, prompt after prompt, and the CPU seconds of this process and its children.
"""

from __future__ import annotations

import json
import os
import sys
from time import process_time

import psutil

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB


def cpu_seconds() -> float:
    """Return the CPU seconds spent so far."""
    children = psutil.Process().children(recursive=True)
    return process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    from vllm import LLM, SamplingParams

    job = json.loads(sys.stdin.readline())
    engine = LLM(
        model=job["model"],
        dtype="bfloat16",
        enforce_eager=not job["compile"],
        enable_prefix_caching=True,
        block_size=job["block_size"],
        max_model_len=2048,
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    length = {"max_tokens": job["tokens"], "ignore_eos": True}  # `min_tokens` would forbid the end of turn instead
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["forget"] and not engine.reset_prefix_cache():
            raise SystemExit("vLLM keeps its prefix cache")
        how = SamplingParams(n=ask["replies"], temperature=ask["temperature"], top_k=0, top_p=1.0, **length)
        start = cpu_seconds()
        found = engine.generate(prompts, how, use_tqdm=False)
        seconds = cpu_seconds() - start
        ids = [list(reply.token_ids) for request in found for reply in request.outputs]
        answers.write(json.dumps({"ids": ids, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
