"""Turns a GGUF file into a folder that vLLM and transformers load:
`python -m models_registry.catalog.convert_gguf IN OUT`.

It runs as a child process, because it imports torch and needs several times the file's size of memory, which is freed
when it ends. It does not depend on Django. It writes a line for each step to standard output; when it fails, the last
line on standard error says why, and the exit code is not 0.
"""

import argparse
import mmap
import os
import sys
import time
from pathlib import Path

MAGIC = b"GGUF"
_BOOL = b"\x07\x00\x00\x00"  # the type of a metadata value, between its key and its one byte
_STARTED = time.monotonic()


def convert(source: Path, target: Path) -> None:
    """Write weights (bfloat16 safetensors), configuration and tokenizer of `source` into the folder `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, file = str(source.parent), source.name
    _say(f"reading the tokenizer of {file}")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # transformers leaves these two out; a model that expects its first token answers nonsense without it
    for setting in ("add_bos_token", "add_eos_token"):
        if (wanted := _metadata_bool(source, f"tokenizer.ggml.{setting}")) is not None:
            setattr(tokenizer, setting, wanted)
    _say("reading and dequantizing the weights")
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=file, dequantize=True),  # quantized weights cannot be saved
    )
    _say(f"writing {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))


def _metadata_bool(source: Path, key: str) -> bool | None:
    """A boolean of the file's metadata, or None. It is searched by its bytes: gguf's reader takes 17 s for a large
    vocabulary."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(key.encode() + _BOOL, 0, 256 * 1024**2)
        return None if at < 0 else content[at + len(key) + len(_BOOL)] != 0


def _say(step: str) -> None:
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {step}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models_registry.catalog.convert_gguf", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN.gguf")
    parser.add_argument("target", type=Path, metavar="OUT_DIR")
    options = parser.parse_args()
    source, target = options.source.absolute(), options.target.absolute()
    with source.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            sys.exit(f"{source} is not a GGUF file: it does not begin with {MAGIC.decode()}")
    os.environ["HF_HUB_OFFLINE"] = "1"  # a missing file is an error, and is not downloaded
    target.mkdir(parents=True, exist_ok=True)
    convert(source, target)
    _say("done")


if __name__ == "__main__":
    main()
