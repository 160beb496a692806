"""Counts the tokens of texts: a list of them as JSON comes in, their number goes out.

It runs as a process of its own, with limits, as `python -m batches.pages.new.count_tokens FILE`, where FILE is a
model's tokenizer.json.
"""

import json
import resource
import sys

MOST_MEMORY = 4 * 2**30  # bytes of addresses
MOST_SECONDS = 10  # of processor time, in case the caller is dead


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(sys.argv[1])
    print(sum(len(one.ids) for one in tokenizer.encode_batch(json.load(sys.stdin), add_special_tokens=False)))


if __name__ == "__main__":
    main()
