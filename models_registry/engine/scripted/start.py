"""How the scripted engine starts: its options, how long loading takes, and how it fails."""

import argparse
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import NoReturn

_STEPS = (
    "Initializing a V1 LLM engine (scripted)",
    "Starting to load model {model}...",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2",
    "Loading safetensors checkpoint shards: 100% Completed | 2/2",
    "Loading weights took {seconds:.2f} seconds",
    "CPU KV cache size: 46,592 tokens",
)
_TRACEBACK = """\
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "models_registry/engine/scripted/server.py", line 1, in build_async_engine_client
    vllm_config = engine_args.create_engine_config(usage_context=usage_context)
                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""
_PER_TOKEN = 2**-14  # GiB of KV cache
_TOTAL = 80  # GiB of the GPU
_CONTEXT = (
    "ValueError: To serve at least one request with the model's max seq len ({length}), ({needed:.2f} GiB KV cache is "
    "needed, which is larger than the available KV cache memory ({there:.2f} GiB). Based on the available memory, the "
    "estimated maximum model length is {longest}. Try increasing `gpu_memory_utilization` (which also controls CPU "
    "memory on the CPU backend) or decreasing `max_model_len` when initializing the engine."
)
_SHARE = (
    "ValueError: Free memory on device cuda:0 ({free:.2f}/{total:.2f} GiB) on startup is less than desired GPU memory "
    "utilization ({share}, {wanted:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory used by other "
    "processes."
)
_CUDA = "torch.OutOfMemoryError: CUDA out of memory."


def load(options: argparse.Namespace) -> None:
    """Wait as long as loading takes, and log each step as vLLM does; or fail as vLLM does."""
    for step in _STEPS:
        line = step.format(model=options.served_model_name, seconds=options.start_seconds)
        print(f"(EngineCore pid={os.getpid()}) INFO [scripted.py:1] {line}", flush=True)
        time.sleep(options.start_seconds / len(_STEPS))
    if reason := options.fail_start or _out_of_memory(options):
        sys.exit(_TRACEBACK + reason)


def _out_of_memory(options: argparse.Namespace) -> str:
    """vLLM's error for a model that does not fit; empty for one that does."""
    length, share = options.max_model_len, options.gpu_memory_utilization
    fits_share = options.fits_share
    if options.fits_without and os.path.lexists(options.fits_without):
        fits_share = share / 2
    short_of_share = fits_share is not None and share > fits_share
    short_of_context = options.fits_context is not None and length > options.fits_context
    if options.no_numbers and (short_of_share or short_of_context):
        return _CUDA
    if short_of_share:
        free = (fits_share + 0.02) * _TOTAL
        return _SHARE.format(free=free, total=_TOTAL, share=share, wanted=share * _TOTAL)
    if short_of_context:
        needed, there = length * _PER_TOKEN, options.fits_context * _PER_TOKEN
        return _CONTEXT.format(length=length, needed=needed, there=there, longest=options.fits_context)
    return ""


# Options with which it reads, writes or looks for files, by itself or because a request says so.
FILE_OPTIONS = frozenset({"journal", "fits-without", "counters"})


def read_options(description: str | None) -> argparse.Namespace:
    return parser(description).parse_args()


class WrongOptions(ValueError):
    """The scripted engine would not start with these options."""


class _Checking(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongOptions(message.replace("argument --", "the engine option ", 1))


def check(names: Collection[str], arguments: Sequence[str]) -> None:
    """Raises WrongOptions unless `read_options` would take these options and arguments."""
    checking = parser(of=_Checking)
    known = {name.replace("_", "-") for name in vars(checking.parse_args([]))}
    for name in names:
        if name not in known:
            raise WrongOptions(f"the scripted engine has no option {name}: it has {', '.join(sorted(known))}")
    checking.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1, not {text!r}")
    return int(text)


def _time(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"it must be a number from 0, not {text!r}")
    return number


def parser(
    description: str | None = None, of: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    parser = of(
        prog="python -m models_registry.engine.scripted.server",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # otherwise half the name of a refused option would set it
    )
    parser.add_argument("--uds", help="path of the Unix socket to listen on; otherwise --host and --port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default="scripted")
    parser.add_argument("--task", choices=["any", "chat", "completion", "embedding", "score"], default="any")
    parser.add_argument("--max-num-seqs", type=_count, default=256, help="requests that run at once; the others wait")
    parser.add_argument("--max-model-len", type=_count, default=8192, help="said in /v1/models")
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192, help="of no effect")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92, help="see --fits-share")
    parser.add_argument("--kv-cache-memory-bytes", type=int, help="of no effect")
    parser.add_argument("--enable-lora", action="store_true", help="adapters can be loaded and unloaded, as in vLLM")
    parser.add_argument("--max-lora-rank", type=_count, default=16, help="adapters with a higher one are refused")
    parser.add_argument("--max-loras", type=_count, default=1, help="different adapters that run at once")
    parser.add_argument("--max-cpu-loras", type=_count, help="of no effect: vLLM too loads others again when asked")
    parser.add_argument("--kv-tokens", type=_count, metavar="N", help="room for so many tokens in the cache; see above")
    parser.add_argument("--disable-log-stats", action="store_true", help="/metrics has no figures of requests")
    parser.add_argument("--latency-ms", type=_time, default=0, help="how long each request runs")
    parser.add_argument("--token-ms", type=_time, default=0, help="how much longer for each word of the answer")
    parser.add_argument("--read-ms", type=_time, default=0, help="how long all stand still for each token of a prompt")
    parser.add_argument("--start-seconds", type=_time, default=0, help="how long loading takes")
    parser.add_argument("--fail-start", metavar="TEXT", help="fail after that, with a traceback that ends in TEXT")
    parser.add_argument(
        "--fits-context", type=int, metavar="N", help="fail for want of memory with a longer --max-model-len"
    )
    parser.add_argument(
        "--fits-share", type=float, metavar="X", help="fail for want of memory with more --gpu-memory-utilization"
    )
    parser.add_argument("--fits-without", metavar="PATH", help="fail for want of memory while there is such a path")
    parser.add_argument("--no-numbers", action="store_true", help="do not say how much memory is wanting")
    parser.add_argument("--enable-sleep-mode", action="store_true", help="it can sleep, as in vLLM")
    parser.add_argument(
        "--after-sleep",
        choices=["nonsense", "refuse", "die"],
        help="what it does from then on instead of waking up well",
    )
    parser.add_argument("--crash-after", type=int, metavar="N", help="end the process after N answers")
    parser.add_argument(
        "--crash-above", type=int, metavar="N", help="end the process when more than N are there at once"
    )
    parser.add_argument("--journal", metavar="PATH", help="append a line for each request to this file")
    parser.add_argument(
        "--counters",
        action="store_true",
        help="requests may have it count in files: whoever sends one then writes files as the user that it runs as",
    )
    return parser
