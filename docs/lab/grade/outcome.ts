/**
 * What a check saw, and the words that it said.
 *
 * @module
 */

import type { Evidence } from "./diagnosis.ts";
import { randomWord } from "./text.ts";
import type { NotCounted } from "./verdict.ts";

/** What a check saw: of one that failed, the evidence. */
export type Outcome = { sent: string; came: string; evidence?: Evidence };

const MANY = 4; // of what was sent: then the first are enough

/** What was sent, in a verdict. */
export function listSent(sent: string[]): string {
  if (sent.length <= MANY) return sent.join(", ");
  return `${sent.slice(0, 2).join(", ")}, … (${sent.length} in all)`;
}

/** A step ends with this where the program did something else than it should. */
export class Failed extends Error {
  readonly outcome: Required<Outcome>;

  constructor(outcome: Required<Outcome>) {
    super(outcome.evidence.wants);
    this.outcome = outcome;
  }
}

/** A step ends with this where it cannot be made, or what it is about cannot be seen. */
export class Untried extends Error {
  readonly reason: NotCounted;

  constructor(message: string, reason: NotCounted = "unseen") {
    super(message);
    this.reason = reason;
  }
}

/** A wait that was in vain, or ended before its time, as the program waited, too. */
export type Waited = { waitedMs: number; isWaiting: boolean };

export const NOT_WAITED: Waited = { waitedMs: 0, isWaiting: false };

export function waitedSince(start: number, ms: number): Waited {
  const waitedMs = performance.now() - start;
  return { waitedMs, isWaiting: waitedMs < ms };
}

const SLOW_MS = 600;

/** How fast a program was seen to be. */
export class Pace {
  #fastestMs = Infinity;

  /** The echo of a sentence took so long. */
  saw(ms: number): void {
    this.#fastestMs = Math.min(this.#fastestMs, ms);
  }

  /** It takes its time for each answer: then some that are alike are enough. */
  get isSlow(): boolean {
    return this.#fastestMs > SLOW_MS && this.#fastestMs < Infinity;
  }
}

const TICK_MS = 50; // between two looks at the clock
const LATE_MS = 200; // beyond that; a program's own time limit is a few times as long

/** When the event loop of the grader itself was held up. */
export class LoopLag implements Disposable {
  #lastTick = performance.now();
  #lateAt = -Infinity;
  readonly #timer = setInterval(() => this.#tick(), TICK_MS);

  #tick(): void {
    const now = performance.now();
    if (now - this.#lastTick > TICK_MS + LATE_MS) this.#lateAt = now;
    this.#lastTick = now;
  }

  /** Whether the grader itself was held up since `start`, so that it answered late. */
  wasLateSince(start: number): boolean {
    this.#tick();
    return this.#lateAt > start;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** Puts random words, stop words and line ends into a template. */
export class Words {
  readonly #words = Array.from({ length: 10 }, randomWord);
  readonly #names: Record<string, string>;

  constructor(names: Record<string, string>) {
    this.#names = names;
  }

  fill(text: string): string {
    return text.replace(/\{(\w+)(?:#(\d+))?\}/g, (_, name: string, length?: string) => {
      const word = this.#names[name] ?? this.#words[Number(name)]!;
      return length === undefined ? word : word.repeat(Math.ceil(+length / 6)).slice(0, +length);
    });
  }
}
