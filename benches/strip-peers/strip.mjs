// Strips for the benchmark with what the runtime brings: Bun's stripANSI, or Node's stripVTControlCharacters.
//
//   strip.mjs CHUNK_BYTES FILE...
//
// Says its name and version, then answers each line "FILE_NUMBER NANOSECONDS" of its input with the nanoseconds that one
// pass over that file's pieces takes, measured for that long, after some turns that do not count: compilers and
// collectors need them. The pieces are strings before the clock starts, of one byte a character where that is enough.
// Nanoseconds are those of this thread's processor, so that what others run beside does not count; Node can only say
// those of all its threads together.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { stripVTControlCharacters } from "node:util";

const [chunkBytes, ...files] = process.argv.slice(2);
const strip = globalThis.Bun?.stripANSI ?? stripVTControlCharacters;

function pieces(file) {
  const bytes = readFileSync(file);
  const decoder = new TextDecoder();
  const texts = [];
  for (let at = 0; at < bytes.length; at += Number(chunkBytes)) {
    texts.push(narrow(decoder.decode(bytes.subarray(at, at + Number(chunkBytes)), { stream: true })));
  }
  return texts;
}

function narrow(text) {
  return /^[\x00-\xFF]*$/.test(text) ? Buffer.from(text, "latin1").toString("latin1") : text;
}

// Turns before the one that counts.
const WARM_TURNS = 4;

let length = 0;

function pass(texts) {
  for (const text of texts) length += strip(text).length;
}

function measure(texts, nanos) {
  const start = now();
  let passes = 0;
  let took = 0;
  do {
    pass(texts);
    passes += 1;
    took = now() - start;
  } while (took < nanos);
  return took / passes;
}

async function clock() {
  if (!globalThis.Bun || process.platform !== "linux") {
    return () => {
      const { user, system } = process.cpuUsage();
      return (user + system) * 1e3;
    };
  }
  const { dlopen, ptr } = await import("bun:ffi");
  const THREAD_CPUTIME = 3;
  const { symbols } = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });
  const time = new BigInt64Array(2);
  return () => {
    symbols.clock_gettime(THREAD_CPUTIME, ptr(time));
    return Number(time[0]) * 1e9 + Number(time[1]);
  };
}

const now = await clock();
const corpora = files.map(pieces);
console.log(globalThis.Bun ? `Bun ${Bun.version}` : `Node ${process.version}`);
for await (const line of createInterface({ input: process.stdin })) {
  const [corpus, nanos] = line.split(" ").map(Number);
  measure(corpora[corpus], WARM_TURNS * nanos);
  console.log(JSON.stringify({ nanos: measure(corpora[corpus], nanos), length }));
}
