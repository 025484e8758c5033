/**
 * Grades one program: tries its checks in their order, and makes verdicts of what they saw.
 *
 * @module
 */

import { type TcpChannel, Waits } from "./channel.ts";
import { type Check, checksOf, type ClientStep, type ServerStep } from "./checks.ts";
import { diagnose } from "./diagnosis.ts";
import { closeGently, ServerRun } from "./interpreter.ts";
import { ClientRun } from "./keyboard.ts";
import { MISTAKES } from "./mistakes.ts";
import { Failed, LoopLag, type Outcome, Pace, Untried } from "./outcome.ts";
import { holdDeadPort, Ports, waitForPort } from "./ports.ts";
import { checkCommand, findTerminal, newSession, sweep } from "./program.ts";
import { GradedServer, type Resources } from "./server.ts";
import { play } from "./stage.ts";
import { type GradeOptions, NOT_COUNTED, UsageError, type Verdict } from "./verdict.ts";

const CHECKS_AT_ONCE = 4; // each with a process of its own
const FAILURES_MS = 14_000; // of tasks' checks, in all: a program without hope takes less than 20 s
const TRIES = 5; // of a check of a client at most, where the grader was late in each
const TOTAL_MS = 150_000; // no check starts later, also of a program that is right and slow

/** How a check is tried. */
type Try = () => Promise<Outcome>;

/**
 * Grades a program, and ends what it started.
 * @throws UsageError if the command cannot be run, or the port not be had
 */
export async function grade(options: GradeOptions): Promise<Verdict[]> {
  const { kind, command, port } = options;
  if (kind.startsWith("udp") && !("listenDatagram" in Deno)) {
    throw new UsageError("UDP needs --unstable-net behind deno run, where no deno.json gives it");
  }
  if (command) await checkCommand(command, options.cwd);
  if (port !== undefined) {
    await waitForPort(port, { isTcp: kind.startsWith("tcp"), onNote: options.onNote });
  }
  const terminal = command ? await findTerminal() : "pipe";
  using ports = new Ports();
  const own = { terminal, waits: new Waits(), session: newSession(), pace: new Pace(), ports };
  const grading = new Grading(options);
  try {
    if (kind.endsWith("server")) await gradeServer(grading, own);
    else await gradeClient(grading, own);
    return grading.verdicts;
  } finally {
    const left = command ? await sweep(own.session) : [];
    grading.leftBehind.push(...left.map(({ name, pid }) => `${name} (process ${pid})`));
    for (const what of grading.leftBehind) {
      options.onNote?.(`it left a process behind, which is ended now: ${what}`);
    }
  }
}

/** The verdicts on one program, in the order of its checks. */
class Grading {
  readonly options: GradeOptions;
  readonly checks: Check[];
  readonly verdicts: Verdict[] = [];
  readonly leftBehind: string[] = [];
  /** Why no further check makes sense; and whether that is no fault of the program. */
  lost = "";
  readonly #start = performance.now();
  readonly #byName = new Map<string, Promise<Verdict>>();
  #failuresMs = 0;

  constructor(options: GradeOptions) {
    this.options = options;
    this.checks = checksOf(options.kind, options);
  }

  /** Tries a check, if its needs passed; `atOnce`: so many are tried at a time. */
  judge(check: Check, attempt: Try, { atOnce = 1 } = {}): Promise<Verdict> {
    const verdict = this.#judge(check, attempt, atOnce);
    this.#byName.set(check.name, verdict);
    return verdict;
  }

  /** A verdict's turn has come. */
  add(verdict: Verdict): void {
    this.verdicts.push(verdict);
    this.options.onVerdict?.(verdict);
  }

  async #judge(check: Check, attempt: Try, atOnce: number): Promise<Verdict> {
    for (const need of check.needs ?? []) {
      const needed = await this.#byName.get(need);
      if (!needed || needed.passed) continue;
      const verdict = this.#untried(check, `not tried: "${need}" comes first`);
      const reason = NOT_COUNTED.get(needed);
      if (reason) NOT_COUNTED.set(verdict, reason);
      return verdict;
    }
    const began = performance.now();
    if (this.lost) return this.#untried(check, `not tried: ${this.lost}`);
    if (this.#failuresMs / atOnce > FAILURES_MS || began - this.#start > TOTAL_MS) {
      return this.#untried(check, "not tried: out of time");
    }
    const verdict = await this.#try(check, attempt);
    verdict.seconds = Math.round(performance.now() - began) / 1000;
    const hasFailed = verdict.passed === false || NOT_COUNTED.get(verdict) === "busy";
    if (hasFailed && !verdict.beyond) this.#failuresMs += performance.now() - began;
    return verdict;
  }

  async #try(check: Check, attempt: Try): Promise<Verdict> {
    try {
      return this.#verdict(check, { passed: true, ...await attempt() });
    } catch (error) {
      if (error instanceof Untried) {
        const verdict = this.#untried(check, `not tried: ${error.message}`);
        NOT_COUNTED.set(verdict, error.reason);
        return verdict;
      }
      if (!(error instanceof Failed)) throw error;
      const { sent, came, evidence } = error.outcome;
      const diagnosis = diagnose(evidence);
      const hint = MISTAKES[diagnosis.mistake];
      return this.#verdict(check, { passed: false, ...diagnosis, hint, sent, came });
    }
  }

  #untried(check: Check, cause: string): Verdict {
    return this.#verdict(check, { passed: null, cause, sent: "", came: "" });
  }

  #verdict(
    { step, name }: Check,
    seen: Pick<Verdict, "passed" | "sent" | "came"> & Partial<Verdict>,
  ): Verdict {
    const { kind, program, command, address } = this.options;
    const { passed, mistake = null, guess = false, cause = null, hint = null, sent, came } = seen;
    return {
      program: program ?? command?.join(" ") ?? `${address?.hostname}:${address?.port}`,
      kind,
      task: kind.startsWith("udp") ? 4 : Number(step[0]),
      name,
      beyond: step.endsWith("+"),
      ...{ passed, mistake, guess, cause, hint, sent, came, seconds: 0 },
    };
  }
}

/**
 * Judges all checks in their order. `atOnce` says how many may be tried at a time when the i-th is
 * next, and `judge` tries one.
 */
export async function judgeAll<Step>(
  grading: Pick<Grading, "checks" | "add">,
  atOnce: (i: number) => number,
  judge: (check: Check<Step>, atOnce: number) => Promise<Verdict>,
): Promise<void> {
  const lanes = new Set<Promise<unknown>>();
  let added = Promise.resolve();
  try {
    for (const [i, check] of (grading.checks as Check<Step>[]).entries()) {
      while (lanes.size >= atOnce(i)) await Promise.race(lanes);
      const verdict = judge(check, atOnce(i));
      const lane: Promise<unknown> = verdict.then(() => lanes.delete(lane));
      lanes.add(lane);
      added = added.then(async () => grading.add(await verdict));
      for (const awaited of [lane, added]) awaited.catch(() => {}); // below
    }
    await added;
  } finally {
    await Promise.allSettled(lanes);
  }
}

// ---- Servers ----

/**
 * A server serves one check after the other. One that is a command and serves a single client has a
 * process for each check, some at a time.
 */
async function gradeServer(grading: Grading, own: Resources): Promise<void> {
  const { options } = grading;
  await using shared = new GradedServer(options, own);
  let kept: TcpChannel | undefined;
  const isAlone = (): boolean =>
    !shared.isByAddress && !shared.hasFixedPort && (options.task === 1 || !shared.mayBeSound);
  async function judge(check: Check<ServerStep>, atOnce: number): Promise<Verdict> {
    const isTask = !check.step.endsWith("+");
    if (!isTask && kept) kept = void await closeGently(kept, own.waits);
    const resources = atOnce > 1 ? { ...own, waits: new Waits() } : own;
    const server = atOnce > 1 ? shared.another(resources) : shared;
    let run: ServerRun | undefined;
    const verdict = await grading.judge(check, async () => {
      run = new ServerRun(check, { ...resources, server });
      return await run.take(check, kept);
    }, { atOnce });
    if (run) kept = await afterCheck(run, { verdict, server, grading, own: resources });
    if (server !== shared) await end(server);
    return verdict;
  }
  async function end(server: GradedServer): Promise<void> {
    await server.stopProgram();
    grading.leftBehind.push(...server.leftBehind);
  }
  await judgeAll(grading, (i) => i > 0 && isAlone() ? CHECKS_AT_ONCE : 1, judge);
  if (kept) await closeGently(kept, own.waits);
  await end(shared);
}

/** The next check shall find a server that owes nothing to this one's; returns what is kept. */
async function afterCheck(
  run: ServerRun,
  { verdict, server, grading, own }: {
    verdict: Verdict;
    server: GradedServer;
    grading: Grading;
    own: Resources;
  },
): Promise<TcpChannel | undefined> {
  const { passed, mistake, beyond } = verdict;
  const { task = 3 } = grading.options;
  if (!server.isByAddress) {
    const isEcho = passed === true && task !== 1 && verdict.name !== "prints the sentence";
    const mayProbe = isEcho && !server.isSound && server.mayBeSound;
    await run.end({ isLast: passed !== true || !(mayProbe || server.isSound) });
    if (mayProbe) server.isSound = server.mayBeSound = await answers(server, own, true);
    if (mistake === "unreachable") grading.lost = "nobody listens";
    if (passed !== true || !server.isSound) await server.stopProgram();
    return undefined;
  }
  // One connection carries all the tasks of a server that may serve no second client.
  const isKept = passed === true && !beyond && server.isTcp && task >= 3;
  const kept = await run.end({ isKept });
  if (passed === false && !await answers(server, own, false)) {
    grading.lost = "the server answers no more";
  }
  return kept;
}

/** Whether the server serves another client. */
async function answers(
  server: GradedServer,
  own: Resources,
  isSame: boolean,
): Promise<boolean> {
  const probe: Check<ServerStep> = {
    step: "2",
    name: "another client",
    steps: [
      { do: "send", text: "Hello {1}{lf}", by: 1 },
      { do: "probe", by: 1 },
    ],
  };
  const run = new ServerRun(probe, { ...own, server, isSame });
  const isAnswered = await run.take(probe).then(() => true, () => false);
  await run.end({ isLast: !isAnswered && isSame });
  return isAnswered;
}

// ---- Clients ----

/** Each check of a client has a process of its own, some at a time where ports allow. */
async function gradeClient(grading: Grading, own: Resources): Promise<void> {
  const { options } = grading;
  using lag = new LoopLag();
  const ports: number[][] = [];
  const mustBeAlone = (): boolean =>
    options.port !== undefined || ports.length < 2 || isFixed(ports);
  await judgeAll<ClientStep>(
    grading,
    () => mustBeAlone() ? 1 : CHECKS_AT_ONCE,
    (check, atOnce) => {
      const attempt = (): Promise<Outcome> => tryClient(check, options, { own, ports });
      return grading.judge(check, () => tryInTime(attempt, lag), { atOnce });
    },
  );
}

/** Whether the client binds a port of its own: then no two of it can run at a time. */
function isFixed([first = [], second = []]: number[][]): boolean {
  return first.some((port) => second.includes(port));
}

/** A client that gives up on a server which is late is right: where the grader was, it is tried again. */
async function tryInTime(attempt: Try, lag: LoopLag): Promise<Outcome> {
  const began = performance.now();
  for (let tries = 0; tries < TRIES && performance.now() - began < FAILURES_MS; tries++) {
    const start = performance.now();
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Failed) || !lag.wasLateSince(start)) throw error;
    }
  }
  throw new Untried("this machine is too busy", "busy");
}

async function tryClient(
  check: Check<ClientStep>,
  options: GradeOptions,
  { own, ports }: { own: Resources; ports: number[][] },
): Promise<Outcome> {
  const words = options.stop ?? ["stop", "exit"];
  let failure: unknown;
  for (const stop of check.stop === undefined ? [words[0]!] : words) {
    await using dead = check.isDead ? await holdDeadPort() : undefined;
    const waits = new Waits();
    const stage = await play(options, { ...own, waits, ...(dead ? { deadPort: dead.port } : {}) });
    try {
      const outcome = await new ClientRun(check, { stage, stop, pace: own.pace }).take(check);
      if (check.stop !== "each") return outcome;
      failure = outcome;
    } catch (error) {
      if (check.stop !== "any") throw error;
      failure ??= error; // perhaps it knows another word
    } finally {
      if (stage.clientPorts.length > 0) ports.push(stage.clientPorts);
      await stage[Symbol.asyncDispose]();
    }
  }
  if (failure instanceof Error) throw failure;
  return failure as Outcome;
}
