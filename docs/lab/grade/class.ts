/**
 * A class: a file with a line for each submission, graded some at a time.
 *
 * @module
 */

import { UsageError } from "./verdict.ts";

const AT_ONCE = 4; // submissions: most of their time they wait

/** A line of the file: the name, and what stands on a command line of its own. */
export type Entry = { name: string; args: string[] };

/**
 * Reads a class file: name, kind, command (or address) and options, with a tab between them. Empty
 * lines and those that begin with `#` do not count.
 * @throws UsageError that names the line
 */
export function parseClass(text: string, file: string): Entry[] {
  const entries: Entry[] = [];
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [name = "", kind = "", command = "", ...options] = line.split("\t").map((field) =>
      field.trim()
    );
    if (i === 0 && kind === "kind") continue; // a header
    if (name === "" || kind === "" || command === "") {
      throw new UsageError(`${file}:${i + 1}: a line is name, kind, command and options, by tabs`);
    }
    const words = splitWords(command);
    const isAddress = words.length === 1 && /^\S+:\d+$/.test(words[0]!);
    const more = options.flatMap(splitWords);
    entries.push({ name, args: [kind, ...more, ...(isAddress ? [] : ["--"]), ...words] });
  }
  if (entries.length === 0) throw new UsageError(`${file} has no submissions`);
  return entries;
}

/** Splits a command into words as a shell does: quotes and backslashes keep blanks in a word. */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (
    const [, single, double, escaped, plain] of text.matchAll(
      /'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)|(\s+|[^\s'"\\]+|['"\\])/gs,
    )
  ) {
    if (plain !== undefined && /^\s+$/.test(plain)) {
      if (word !== undefined) words.push(word);
      word = undefined;
      continue;
    }
    word = (word ?? "") + (single ?? double?.replace(/\\(["\\$`])/g, "$1") ?? escaped ?? plain);
  }
  return word === undefined ? words : [...words, word];
}

/**
 * Runs `jobs`, some at a time; those on the same port one after the other, clients last: what the
 * grader closes as their server stays in TIME-WAIT. Results keep the order.
 */
export async function runAll<T>(
  jobs: { port: number | undefined; isClient: boolean; run(): Promise<T> }[],
): Promise<T[]> {
  const results: Promise<T>[] = [];
  const onPort = new Map<number, Promise<unknown>>();
  const lanes = new Set<Promise<unknown>>();
  const isLate = (job: { port: number | undefined; isClient: boolean }): boolean =>
    job.isClient && job.port !== undefined;
  const rest = jobs.map((job, i) => ({ ...job, i }))
    .toSorted((a, b) => Number(isLate(a)) - Number(isLate(b)));
  while (rest.length > 0) {
    // The first whose port is free; where there is none, the next in line waits for its port.
    const free = rest.findIndex(({ port }) => port === undefined || !onPort.has(port));
    if (free < 0 || lanes.size >= AT_ONCE) {
      await Promise.race(lanes);
      continue;
    }
    const [{ i, port, run }] = rest.splice(free, 1) as [typeof rest[number]];
    const result = run();
    results[i] = result;
    const lane: Promise<unknown> = result.catch(() => {}).then(() => {
      lanes.delete(lane);
      if (port !== undefined) onPort.delete(port);
    });
    lanes.add(lane);
    if (port !== undefined) onPort.set(port, lane);
  }
  return await Promise.all(results);
}
