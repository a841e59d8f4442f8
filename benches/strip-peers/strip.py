"""Strips for the benchmark as Python programs do, with a regular expression.

    strip.py CHUNK_BYTES FILE...

Says its name and version, then answers each line "FILE_NUMBER NANOSECONDS" of its input with the nanoseconds that one
pass over that file's pieces takes, measured for that long, after as long without measuring. The pieces are strings
before the clock starts, and nanoseconds are those of this thread's processor: what others run beside does not count.
"""

import codecs
import json
import platform
import re
import sys
import time

ESCAPE = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")


def pieces(file: str, chunk_bytes: int) -> list[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with open(file, "rb") as stream:
        return [decoder.decode(chunk) for chunk in iter(lambda: stream.read(chunk_bytes), b"")]


def strip(texts: list[str]) -> None:
    for text in texts:
        ESCAPE.sub("", text)


def measure(texts: list[str], nanos: int) -> float:
    start = time.thread_time_ns()
    passes = 0
    took = 0
    while took < nanos:
        strip(texts)
        passes += 1
        took = time.thread_time_ns() - start
    return took / passes


def main() -> None:
    chunk_bytes, *files = sys.argv[1:]
    corpora = [pieces(file, int(chunk_bytes)) for file in files]
    print(f"Python {platform.python_version()} re", flush=True)
    for line in sys.stdin:
        corpus, nanos = map(int, line.split())
        measure(corpora[corpus], nanos)
        print(json.dumps({"nanos": measure(corpora[corpus], nanos)}), flush=True)


main()
