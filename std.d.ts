/**
 * Types for the few `@std` functions in use. `deno.json` maps the official names to the npm copy of
 * the standard library, which has the sources with their types stripped. Mapped to JSR, the names
 * may keep these types.
 */

declare module "@std/cli/parse-args" {
  export function parseArgs(args: string[], options: {
    string?: string[];
    collect?: string[];
    alias?: Record<string, string | string[]>;
    unknown?: (arg: string, key?: string) => unknown;
  }): { [name: string]: unknown; _: (string | number)[] };
}

declare module "@std/streams/text-line-stream" {
  export class TextLineStream extends TransformStream<string, string> {}
}

declare module "@std/assert" {
  export class AssertionError extends Error {}
  export function assert(condition: unknown, message?: string): asserts condition;
  export function assertEquals<T>(actual: T, expected: T, message?: string): void;
  export function assertNotEquals<T>(actual: T, expected: T, message?: string): void;
  export function assertMatch(actual: string, expected: RegExp, message?: string): void;
  export function assertStringIncludes(actual: string, expected: string, message?: string): void;
  export function assertAlmostEquals(
    actual: number,
    expected: number,
    tolerance?: number,
    message?: string,
  ): void;
  export function assertGreater<T>(actual: T, expected: T, message?: string): void;
  export function assertGreaterOrEqual<T>(actual: T, expected: T, message?: string): void;
  export function assertLess<T>(actual: T, expected: T, message?: string): void;
  export function assertLessOrEqual<T>(actual: T, expected: T, message?: string): void;
  export function assertThrows<E extends Error = Error>(
    fn: () => unknown,
    // deno-lint-ignore no-explicit-any
    ErrorClass?: new (...args: any[]) => E,
    messageIncludes?: string,
  ): E;
  export function assertRejects<E extends Error = Error>(
    fn: () => PromiseLike<unknown>,
    // deno-lint-ignore no-explicit-any
    ErrorClass?: new (...args: any[]) => E,
    messageIncludes?: string,
  ): Promise<E>;
}
