/**
 * How fast a program was seen to be, and how long the grader waits for it.
 *
 * @module
 */

const MAX_MS = 4_000; // for an echo or a printed line: what a busy machine takes, and more
const SLOW_MS = 600;
const MIN_MS = 1_500; // for a check that is beyond the tasks, of a program that was fast before

/** The pace of one program. */
export class Pace {
  #slowestMs = 0;
  #fastestMs = Infinity;

  /** The echo of a sentence took so long. */
  saw(ms: number): void {
    this.#slowestMs = Math.max(this.#slowestMs, ms);
    this.#fastestMs = Math.min(this.#fastestMs, ms);
  }

  /** It takes its time for each answer: then some that are alike are enough. */
  get isSlow(): boolean {
    return this.#fastestMs > SLOW_MS && this.#fastestMs < Infinity;
  }

  /** How long to wait: a task is waited for in full, what is beyond it as the program's pace is. */
  patience({ isBeyond }: { isBeyond: boolean }): number {
    if (!isBeyond) return MAX_MS;
    return Math.round(Math.min(MAX_MS, MIN_MS + 8 * this.#slowestMs) / 100) * 100;
  }
}
