/**
 * Types for the few `@std` functions in use, under the names in use. `deno.json` maps these names to
 * the npm copy of the standard library, which has its sources with the types stripped.
 */

declare module "jsr:@std/cli@^1.0.32/parse-args" {
  export function parseArgs<B extends string, S extends string, C extends S, D extends string>(
    args: string[],
    options: {
      boolean: readonly B[];
      string: readonly S[];
      collect?: readonly C[];
      alias?: Record<string, string>;
      default?: Record<D, string | readonly string[]>;
      unknown?: (arg: string, key?: string, value?: unknown) => unknown;
    },
  ):
    & { [name in B]: boolean }
    & { [name in C]: string[] }
    & { [name in Exclude<S, C | "_">]: name extends D ? string : string | undefined }
    & { _: string[] };
}

declare module "jsr:@std/streams@^1.1.2/delimiter-stream" {
  export class DelimiterStream extends TransformStream<Uint8Array, Uint8Array<ArrayBuffer>> {
    constructor(delimiter: Uint8Array, options?: { disposition?: "suffix" | "prefix" | "discard" });
  }
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
