/**
 * How fast a program was seen to be.
 *
 * @module
 */

const SLOW_MS = 600;

/** The pace of one program. */
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
