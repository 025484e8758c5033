/**
 * The command lines of all scripts: wrong use, `--help`, permissions, and the code they share.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  decode,
  fileUrl,
  hasIpv6,
  LIMIT,
  type Result,
  runScript,
  SCRIPTS,
  spawn,
} from "./_helpers.ts";

const SERVERS = SCRIPTS.filter((script) => script.includes("server"));
const CLIENTS = SCRIPTS.filter((script) => script.includes("client"));

/** Wrong use: the arguments, and the words that its one line must have. */
type Row = [args: string[], ...says: string[]];

const ALL_WRONG: Row[] = [
  [["--prot", "80"], '"--prot"', "--help"],
  [["-x"], '"-x"', "--help"],
  [["--port"], "--port", "PORT"],
  [["--port", "--quiet"], "--port", "PORT"],
  [["--host", ""], "--host", "HOST"],
  [["--stop"], "--stop", "WORD"],
  [["--port", "80x"], "--port", '"80x"', "65535"],
  [["--port", "65536"], "--port", '"65536"', "65535"],
  [["--port", "-1"], "--port", '"-1"'],
  [["--port=-1"], "--port", '"-1"', "65535"],
  [["--port", "12000", "--port", "12001"], "--port", '"12000"', '"12001"'],
  [["--host", "a", "-H", "b"], "--host", '"a"', '"b"'],
  [["--quiet=yes"], '"--quiet=yes"', "--help"],
  [["--no-quiet"], '"--no-quiet"', "--help"],
  [["--\x1b[31m"], '"--\\u{1b}[31m"', "--help"],
];

/** For one script only: the code that looks at these is the same in all, as a test below holds. */
const ODD: Row[] = [
  [["--port="], "--port", "PORT"],
  [["-p80x"], "--port", '"80x"', "65535"],
  [["--port", "12e3"], "--port", '"12e3"', "65535"],
  [["--port", "0x2ee0"], "--port", '"0x2ee0"', "65535"],
  [["--port", " 12000"], "--port", '" 12000"', "65535"],
  [["--port", "１２０００"], "--port", '"１２０００"', "65535"],
  [["--port", "1\n2"], "--port", '"1\\u{a}2"', "65535"],
  [["--port", "12000", "-p", "12000"], "--port", '"12000"'],
  [["--host"], "--host", "HOST"],
  [["--stop", "a", "--stop", ""], "--stop", "WORD"],
  [["-qx"], '"-qx"', "--help"],
  [["-pq", "80"], "--port", '"q"', "65535"],
  [["-Hq", "-p"], "--port", "PORT"],
  [["--no-port=9999"], '"--no-port=9999"', "--help"],
  [["--no-stop=1"], '"--no-stop=1"', "--help"],
  [["--p", "12000"], '"--p"', "--help"],
  [["--_"], '"--_"', "--help"],
  [["-_", "x"], '"-_"', "--help"],
  [["--host", "-q", "hello"], "--host", "HOST", '"-q"'],
  [["--stop", "-"], "--stop", "WORD", '"-"'],
  [["--stop", " "], "--stop", "WORD"],
  [["--HELP"], '"--HELP"', "--help"],
  [["--help=x"], '"--help=x"', "--help"],
  [["--port.x", "1"], '"--port.x"', "--help"],
  [["--constructor"], '"--constructor"', "--help"],
  [["--__proto__=1"], '"--__proto__=1"', "--help"],
];

const SERVERS_WRONG: Row[] = [
  [["stray"], '"stray"', "--help"],
  [["--quiet", "stray"], '"stray"', "--help"],
  [["--quiet", "false"], '"false"', "--help"], // to parseArgs, a flag that is not set
  [["--", "--quiet"], '"--quiet"', "--help"],
  [["--port", "1"], "--port 1 ", "reserved", "1024", "65535"],
  [["--port", "80"], "--port 80 ", "reserved", "1024", "65535"],
  [["--port", "1023"], "--port 1023 ", "reserved", "1024", "65535"],
  [["--count", "1"], '"--count"', "--help"],
];

const CLIENTS_WRONG: Row[] = [
  [["--port", "0"], "--port", '"0"', "1 to 65535"],
  [["--timeout"], "--timeout", "SECONDS"],
  [["--timeout", "0"], "--timeout", '"0"'],
  [["--timeout", "1s"], "--timeout", '"1s"'],
  [["--timeout", "-1"], "--timeout", '"-1"'],
  [["--timeout", "Infinity"], "--timeout", '"Infinity"'],
  [["--once"], '"--once"', "--help"],
  [["--count", "3", "hello"], "--count", '"hello"'],
  [["--count", "3", "--no-echo"], "--count", "--no-echo"],
];

const WRONG: Record<string, Row[]> = {
  "tcp_server.ts": [
    [["--idle", "soon"], "--idle", '"soon"'],
    [["--idle=-1"], "--idle", '"-1"'],
    [["--max-connections", "0"], "--max-connections", '"0"', "1 to "],
    [["--max-connections", "1.5"], "--max-connections", '"1.5"', "1 to "],
    [["--drop", "0.5"], '"--drop"', "--help"],
  ],
  "tcp_client.ts": [
    [["--wait", "x"], "--wait", '"x"'],
    [["--retries", "1"], '"--retries"', "--help"],
  ],
  "udp_server.ts": [
    [["--drop", "1.1"], "--drop", '"1.1"', "0 to 1"],
    [["--duplicate", "-.1"], "--duplicate", '"-.1"'],
    [["--delay", "x"], "--delay", '"x"'],
    [["--rate", "1.5"], "--rate", '"1.5"'],
    [["--seed", "x"], "--seed", '"x"'],
    [["--idle", "1"], '"--idle"', "--help"],
  ],
  "udp_client.ts": [
    [["--retries", "1.5"], "--retries", '"1.5"'],
    [["--wait", "1"], '"--wait"', "--help"],
  ],
};

/** The options that the design names. */
const COMMON = ["help", "version", "host", "port", "quiet", "json", "trace"];
const OPTIONS: Record<string, string[]> = {
  "tcp_server.ts": "stop no-stop no-echo once idle max-connections reuse-port".split(" "),
  "tcp_client.ts": "timeout wait no-echo count interval size".split(" "),
  "udp_server.ts": "stop no-stop no-echo once rate drop duplicate delay seed".split(" "),
  "udp_client.ts": "timeout retries no-echo count interval size stop no-stop".split(" "),
};

/** A script's name, as its messages have it. */
function nameOf(script: string): string {
  return script.replace(/\.ts$/, "");
}

/** One line that starts with the script's name, and nothing that could steer a terminal. */
function assertOneLine(stderr: string, script: string): void {
  assertMatch(stderr, new RegExp(`^${nameOf(script)}: [^\\x00-\\x1f\\x7f-\\x9f]+\\n$`));
}

/** The results of `run` for all items, four at a time. */
async function fewAtOnce<T, R>(items: T[], run: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const queue = items.entries(); // shared: each takes the next
  async function work(): Promise<void> {
    for (const [i, item] of queue) results[i] = await run(item);
  }
  await Promise.all([work(), work(), work(), work()]);
  return results;
}

for (const script of SCRIPTS) {
  Deno.test(
    `${script}: wrong use is one line and exit 2, and nothing is opened`,
    LIMIT,
    async (t) => {
      const kind = SERVERS.includes(script) ? SERVERS_WRONG : CLIENTS_WRONG;
      const odd = script === SCRIPTS[0] ? ODD : [];
      const rows = [...ALL_WRONG, ...odd, ...kind, ...WRONG[script] ?? []];
      // Without permission: had it tried to open anything, it would say that instead.
      const run = ([args]: Row): Promise<Result> => runScript(script, args, { allowNet: false });
      const results = await fewAtOnce(rows, run);
      for (const [i, [args, ...says]] of rows.entries()) {
        await t.step(JSON.stringify(args), () => {
          const { code, stdout, stderr } = results[i]!;
          assertOneLine(stderr, script);
          for (const words of says) assertStringIncludes(stderr, words);
          assertEquals([code, stdout], [2, ""]);
        });
      }
    },
  );

  Deno.test(`${script}: --help and --version, on stdout, exit 0`, LIMIT, async (t) => {
    for (const flag of ["--help", "-h"]) {
      await t.step(flag, async () => {
        const { code, stdout, stderr } = await runScript(script, [flag], { allowNet: false });
        assertEquals([code, stderr], [0, ""]);
        assertStringIncludes(stdout, `${script} [options]`);
        for (const option of [...COMMON, ...OPTIONS[script]!]) {
          assertMatch(stdout, new RegExp(`^ {2}(-\\w,| {3}) --${option}\\b`, "m"));
        }
        for (const line of stdout.split("\n")) assert(line.length <= 100, line);
      });
    }

    for (const flag of ["--version", "-V"]) {
      await t.step(flag, async () => {
        const { code, stdout, stderr } = await runScript(script, [flag], { allowNet: false });
        assertEquals([code, stderr], [0, ""]);
        assertMatch(stdout, new RegExp(`^${nameOf(script)} \\d+\\.\\d+\\.\\d+\\n$`));
      });
    }
  });

  Deno.test(`${script}: a missing permission is the exact flag, exit 1`, LIMIT, async (t) => {
    for (const host of ["127.0.0.1", "::1"]) {
      const ignore = host === "::1" && !hasIpv6();
      await t.step({
        name: ignore ? `${host} (ignored: no IPv6 loopback here)` : host,
        ignore,
        fn: async () => {
          const client = CLIENTS.includes(script);
          await using server = client
            ? spawn(script.replace("client", "server"), ["--host", host, "--port", "0"])
            : undefined;
          const port = `${await server?.port() ?? 0}`;
          const args = ["--host", host, "--port", port, ...(client ? ["hello"] : [])];

          const { code, stdout, stderr } = await runScript(script, args, { allowNet: false });
          assertOneLine(stderr, script);
          assertEquals([code, stdout], [1, ""]);
          const [, allowNet] = / --allow-net=(\S+)\n$/.exec(stderr) ?? [];
          assert(allowNet, stderr);
          for (const address of allowNet.split(",")) assertStringIncludes(address, host);

          await using program = spawn(script, args, { allowNet });
          if (!client) return void await program.port();
          assertEquals((await program.finish()).stdout, "hello\n");
        },
      });
    }
  });

  Deno.test(
    `${script}: what cannot be a host is one line, however it is written`,
    LIMIT,
    async (t) => {
      for (const host of ["two words", "two\nlines", "\x1b[31mred", "http://localhost", "[::1]"]) {
        await t.step(JSON.stringify(host), async () => {
          const options = { allowNet: "127.0.0.1" };
          const { code, stdout, stderr } = await runScript(script, ["--host", host], options);
          assertOneLine(stderr, script);
          assert(code === 1 || code === 2, `exit ${code}`);
          assertEquals(stdout, "");
        });
      }
    },
  );

  Deno.test(`${script} stands alone: it imports @std, and node: where a comment says why`, async () => {
    const source = await readSource(script);
    const imports = [...source.matchAll(/\b(?:from|import)\s*\(?\s*["']([^"']+)["']/g)];
    for (const [, name] of imports) assertMatch(name!, /^(@std\/|node:)/);
    for (const line of source.split("\n").filter((line) => /["']node:/.test(line))) {
      assertStringIncludes(line, "//");
    }
    assertMatch(
      source,
      /^#!\/usr\/bin\/env -S deno run( --unstable-net)? --allow-net=127\.0\.0\.1\S*\n/,
    );
    assert(source.endsWith("\nif (import.meta.main) await run(main);\n"));
  });
}

async function readSource(script: string): Promise<string> {
  return decode(await Deno.readFile(fileUrl(script)));
}

/** From the line that starts with `marker` to the next such line, or to the end. */
async function block(script: string, marker: string): Promise<string> {
  const source = `\n${await readSource(script)}`;
  const start = source.indexOf(`\n${marker}`);
  assert(start >= 0, `${script} has no line that starts with "${marker}"`);
  const end = source.indexOf("\n// ----", start + 1);
  return source.slice(start + 1, end < 0 ? undefined : end);
}

for (
  const [who, scripts] of [
    ["all four scripts", SCRIPTS],
    ["both servers", SERVERS],
    ["both clients", CLIENTS],
  ] as const
) {
  Deno.test({
    name: `what ${who} share is the same, to the letter${
      scripts.length > 1 ? "" : " (ignored: there is one yet)"
    }`,
    ignore: scripts.length < 2,
    fn: async () => {
      const marker = `// ---- The same in ${who}`;
      const [first, ...rest] = await Promise.all(scripts.map((script) => block(script, marker)));
      assert(first!.split("\n").length > 10, "it is a block");
      for (const [i, other] of rest.entries()) {
        const lines = other.split("\n");
        const at = first!.split("\n").findIndex((line, i) => line !== lines[i]);
        assert(
          other === first,
          `${scripts[0]} and ${scripts[i + 1]} differ, line ${at} of the block`,
        );
      }
    },
  });
}

Deno.test("the block that all four share ends each script", async () => {
  for (const script of SCRIPTS) {
    const shared = await block(script, "// ---- The same in all four scripts");
    assert((await readSource(script)).endsWith(shared), script);
  }
});
