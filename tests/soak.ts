/**
 * The faults of `faults_test.ts` at full scale: `deno task soak`, on Linux as root, with `ip`, `nft`
 * and `python3`. It takes some minutes, five at most, prints a table, and exits 1 if a row failed.
 *
 * @module
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { exchange, type Program, runScript, seededRandom, spawn } from "./_helpers.ts";
import {
  askInFlood,
  besideDeaf,
  descriptors,
  dropRule,
  eventually,
  FEW_DESCRIPTORS,
  FLOOD_UDP,
  FORGE_UDP,
  loaded,
  makeNetwork,
  NEEDS,
  PLAIN_UDP,
  python,
  resetBeforeAccept,
  resetInRead,
  resetInWrite,
  residentMiB,
  restart,
  selfConnects,
  sendEndlessLine,
  starve,
  talk,
  timed,
  transfer,
  transferThroughClient,
} from "./_faults.ts";

const GIGABYTE = 2 ** 30;
const LIMIT_MS = 290_000; // for all of it
const KILL_MS = 150_000; // for one server
const random = seededRandom();

/** Runs a server beside `use`, and stops it in order. */
async function withServer(
  script: string,
  args: string[],
  use: (server: Program, port: number) => Promise<string>,
): Promise<string> {
  await using server = spawn(script, ["--port", "0", ...args], { killMs: KILL_MS });
  const figure = await use(server, await server.port());
  const { code, stderr } = await server.stop();
  assertEquals([code, stderr], [0, ""]);
  return figure;
}

async function resets(): Promise<string> {
  return await withServer("tcp_server.ts", ["--quiet"], async (server, port) => {
    using honest = await Deno.connect({ port });
    assertEquals(await exchange(honest, "hello\n"), "hello\n");
    await resetInRead(server, port, 1); // from then on all that it needs itself is open
    const before = descriptors(server.pid);
    for (const reset of [resetBeforeAccept, resetInRead, resetInWrite]) {
      await reset(server, port, 1_000);
    }
    await eventually("the descriptors are back", () => descriptors(server.pid) <= before);
    return `${before} descriptors before, ${descriptors(server.pid)} after`;
  });
}

async function starvation(): Promise<string> {
  const options = { via: FEW_DESCRIPTORS, killMs: KILL_MS };
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"], options);
  const { served, cpu, waits } = await starve(server, { idleSeconds: 10, freed: 20 });
  assertLess(Math.max(...waits), 1);
  return `${served} served, ${percent(cpu)} CPU, a free place is taken in ${
    ms(Math.max(...waits))
  } at most`;
}

async function endlessLine(): Promise<string> {
  return await withServer("tcp_server.ts", [], async (server, port) => {
    const load = (): Promise<void> => besideDeaf(port, () => sendEndlessLine(port, GIGABYTE));
    const { growth, served } = await loaded(server, port, load, { exchanges: 10 });
    assertLess(growth, 16);
    return `grows by ${growth.toFixed(1)} MiB, ${served} exchanges of an honest client`;
  });
}

async function unreadStdout(): Promise<string> {
  await using server = spawn("tcp_server.ts", ["--port", "0"], { killMs: KILL_MS });
  const port = await server.port();
  const before = residentMiB(server.pid);
  const [, waited] = await timed(talk(port, { exchanges: 2_000 }));
  const growth = residentMiB(server.pid) - before;
  const { code } = await server.stop();
  assertEquals(code, 0);
  return `100,000 echoes, ${Math.round(100_000 / waited)}/s, grows by ${growth.toFixed(1)} MiB`;
}

async function deadPorts(): Promise<string> {
  using network = makeNetwork();
  const { plain, ours, odd } = await selfConnects(network, 20_000);
  assertEquals([ours, odd], [0, []]);
  assert(plain > 0);
  return `${plain} self-connects of Deno.connect, ${ours} of the client's`;
}

async function realLoss(): Promise<string> {
  using network = makeNetwork();
  network.run(dropRule("meta l4proto udp numgen random mod 100 < 20"));
  await using server = python(PLAIN_UDP, [], { via: network.via, killMs: KILL_MS });
  const stdin = Array.from({ length: 400 }, (_, i) => `sentence ${i + 1}\n`).join("");
  const args = ["--port", await server.nextLine(), "--timeout", "0.02", "--retries", "30"];
  // It takes 15 s at the median; one run of a hundred takes more than a minute, by its losses.
  const options = { via: network.via, stdin, killMs: KILL_MS };
  const { code, stdout } = await runScript("udp_client.ts", args, options);
  const echoed = stdout.split("\n").length - 1;
  assertEquals([code, stdout], [0, stdin], `${echoed} of 400`);
  return `${echoed} of 400 echoed, once each, in order`;
}

async function flood(): Promise<string> {
  return await withServer("udp_server.ts", ["--quiet"], async (server, port) => {
    const before = residentMiB(server.pid);
    await using flooder = python(FLOOD_UDP, [port, 1e12], { killMs: KILL_MS }); // without an end
    await flooder.nextLine();
    const [, waited] = await timed(askInFlood(port, 500));
    const growth = residentMiB(server.pid) - before;
    await flooder.stop("SIGKILL");
    return `500 others answered, each in ${ms(waited / 500)}, grows by ${growth.toFixed(1)} MiB`;
  });
}

async function sources(): Promise<string> {
  using network = makeNetwork();
  const options = { via: network.via, allowNet: "127.0.0.0/8", killMs: KILL_MS };
  await using server = spawn("udp_server.ts", ["--port", "0", "--quiet"], options);
  const count = 2_000_000;
  const args = [await server.port(), count];
  const before = residentMiB(server.pid);
  await using forger = python(FORGE_UDP, args, { via: network.via, killMs: KILL_MS });
  await forger.nextLine(); // warm
  const warm = residentMiB(server.pid) - before;
  const [{ code }, waited] = await timed(forger.finish());
  const growth = residentMiB(server.pid) - before;
  assertEquals(code, 0);
  const ended = await server.stop();
  assertEquals(ended.code, 0);
  assertLess(growth, 64);
  const figures = `after 100,000 by ${warm.toFixed(1)}, in the end by ${growth.toFixed(1)} MiB`;
  return `grows ${figures}, ${Math.round(count / waited)}/s`;
}

async function restarts(): Promise<string> {
  for (const script of ["tcp_server.ts", "udp_server.ts"]) await restart(script, 50);
  return "bound 100 times of 100";
}

async function throughServer(): Promise<string> {
  return await withServer("tcp_server.ts", ["--quiet", "--no-stop"], async (_, port) => {
    const [, waited] = await timed(transfer(port, 10 * GIGABYTE, { random }));
    return `identical, ${Math.round(10 * 1024 / waited)} MiB/s there and back`;
  });
}

async function throughClient(): Promise<string> {
  const [, waited] = await timed(
    transferThroughClient(GIGABYTE / 4, { random, echo: true }),
  );
  return `identical, ${Math.round(256 / waited)} MiB/s there and back`;
}

function percent(part: number): string {
  return `${(part * 100).toFixed(1)} %`;
}

function ms(seconds: number): string {
  return `${Math.round(seconds * 1000)} ms`;
}

const ROWS: [fault: string, run: () => Promise<string>][] = [
  ["resets before accept, in read, in write, ×1,000 each", resets],
  ["80 clients, 48 descriptors, 10 s", starvation],
  ["1 GiB line, two clients that never read", endlessLine],
  ["stdout never read, 50 clients talk", unreadStdout],
  ["dead port, 20,000 tries", deadPorts],
  ["UDP, 20 % loss both ways, 400 sentences", realLoss],
  ["UDP flood", flood],
  ["UDP, 2,000,000 distinct sources", sources],
  ["killed and restarted, ×50 TCP, ×50 UDP", restarts],
  ["10 GiB at random through the server", throughServer],
  ["256 MiB at random through the client", throughClient],
];

/** Runs all rows; returns the exit code. */
async function soak(): Promise<number> {
  if (NEEDS.namespace) throw new Error(`cannot soak: ${NEEDS.namespace}`);
  const start = performance.now();
  const late = setTimeout(() => {
    console.error(`soak: not done within ${LIMIT_MS / 1000} s`);
    Deno.exit(1);
  }, LIMIT_MS);
  let failed = 0;
  console.log("| fault | outcome | s |\n| --- | --- | --- |");
  for (const [fault, run] of ROWS) {
    const outcome = run().catch((error) => {
      failed++;
      return `**failed**: ${error.message.split("\n")[0]}`;
    });
    const [figure, waited] = await timed(outcome);
    console.log(`| ${fault} | ${figure} | ${waited.toFixed(1)} |`);
  }
  clearTimeout(late);
  console.log(`\n${ROWS.length - failed} of ${ROWS.length} survived`);
  console.log(`in ${((performance.now() - start) / 1000).toFixed(0)} s`);
  return failed === 0 ? 0 : 1;
}

if (import.meta.main) Deno.exit(await soak());
