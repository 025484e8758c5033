/**
 * What is graded, how, and what comes out.
 *
 * @module
 */

import type { Mistake } from "./mistakes.ts";

/** What can be graded. */
export type Kind = "tcp-server" | "udp-server" | "tcp-client" | "udp-client";

/** What to grade, and how. A server has an address or a command; a client has a command. */
export type GradeOptions = {
  kind: Kind;
  /** What the verdicts call it (default: the address or the command). */
  program?: string;
  address?: { hostname: string; port: number };
  /** Program and arguments; `{port}` in them stands for the port. */
  command?: string[];
  /** Of a command that has no `{port}`. */
  port?: number;
  /** 1 to 4: what the program is graded as (default 3; 4 is the same over UDP). */
  task?: number;
  /** The program's stop words, one of which is enough (default `stop` and `exit`). */
  stop?: string[];
  /** Lines that are typed first; `{port}` in them stands for the port. */
  type?: string[];
  /** Where the command runs (default: here). */
  cwd?: string;
  /** Called with each verdict in its turn. */
  onVerdict?: (verdict: Verdict) => void;
  /** Called with what is no verdict: that it waits, and for what; what was left behind. */
  onNote?: (note: string) => void;
};

/** What one check found: the fields of `--format json`, in this order. */
export type Verdict = {
  program: string;
  kind: Kind;
  /** The handout's task, 1 to 4. */
  task: number;
  name: string;
  /** It is more than the handout asks for. */
  beyond: boolean;
  /** `null`: it was not tried, or could not be seen; `cause` says why. */
  passed: boolean | null;
  /** A stable key; null unless `passed` is false. */
  mistake: Mistake | null;
  /** Only the check suggests the mistake; what was seen does not prove it. */
  guess: boolean;
  /** What was seen, in words; null if `passed`. */
  cause: string | null;
  /** The mistake in words; null unless `passed` is false. */
  hint: string | null;
  sent: string;
  came: string;
  seconds: number;
};

/** Why a verdict does not count: nothing that the program did is in its way. */
export type NotCounted =
  | "unseen" // what it is about could not be seen
  | "over" // the program has ended, in order, and would have to be started again
  | "busy"; // this machine was too busy to tell

export const NOT_COUNTED: WeakMap<Verdict, NotCounted> = new WeakMap();

/** Got and asked, by the number of the task. */
export type Points = Record<string, [got: number, asked: number]>;

/** What all verdicts on a program come to. */
export type Result = { program: string; passed: boolean; points: Points; seconds: number };

/** Adds up verdicts. Those beyond the tasks count only where `strict`. */
export function sumUp(
  verdicts: Verdict[],
  { strict = false, program = "", seconds = 0 } = {},
): Result {
  const points: Points = {};
  let isOpen = false; // the machine was too busy, or nothing of a task could be tried any more
  for (const verdict of verdicts) {
    const point = points[verdict.task] ??= [0, 0];
    if (verdict.beyond && !strict) continue;
    isOpen ||= NOT_COUNTED.get(verdict) === "busy";
    if (NOT_COUNTED.has(verdict)) continue;
    if (verdict.passed) point[0]++;
    point[1]++;
  }
  for (const [task, [, asked]] of Object.entries(points)) {
    isOpen ||= asked === 0 &&
      verdicts.some((verdict) => `${verdict.task}` === task && NOT_COUNTED.get(verdict) === "over");
  }
  const all = Object.values(points);
  const passed = !isOpen && all.some(([got]) => got > 0) &&
    all.every(([got, asked]) => got === asked);
  return { program, passed, points, seconds };
}

/** Wrong use: one line on stderr, exit code 2. */
export class UsageError extends Error {}
