/**
 * The command lines of all scripts: wrong use, `--help`, permissions, and the code they share. That
 * each runs alone is in `standalone_test.ts`.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  decode,
  fileUrl,
  hasIpv6,
  LIMIT,
  NO_SIGNALS,
  runScript,
  SCRIPTS,
  spawn,
  unless,
} from "./_helpers.ts";
import { synced } from "./sync.ts";

const SERVERS = SCRIPTS.filter((script) => script.includes("server"));
const CLIENTS = SCRIPTS.filter((script) => script.includes("client"));

/** Wrong use: the arguments, and the words that its one line must have. */
type Row = [args: string[], ...says: string[]];

const ALL_WRONG: Row[] = [
  [["--prot", "80"], 'unexpected "--prot"', "--help"],
  [["-x"], '"-x"', "--help"],
  [["--port"], "--port needs a value, a whole number from ", ' to 65535, not ""'],
  [["--port", "--quiet"], "--port needs a value, a whole number from ", ' to 65535, not ""'],
  [["--host", ""], "--host "],
  [["--host"], "--host needs a value, a name or an address"],
  [["--stop"], '--stop needs a value, a word of 1 to 100 bytes, not ""'],
  [["--port", "80x"], "--port needs a value", ' to 65535, not "80x"'],
  [["--port", "65536"], "--port needs a value", ' to 65535, not "65536"'],
  [["--port", "-1"], "--port", '"-1"'],
  [["--port=-1"], "--port needs a value", ' to 65535, not "-1"'],
  [["--port", "12000", "--port", "x"], "--port needs a value", ' to 65535, not "x"'], // the last counts
  [["--no-quiet"], '"--no-quiet"', "--help"],
  [["--\x1b[31m"], '"--\\u{1b}[31m"', "--help"],
  [
    ["--host", "localhost:12000"],
    '--host needs a value, a name or an address, not "localhost:12000"',
    "--port",
  ],
  [["--host", "http://localhost"], '"http://localhost"', "--port"],
  [["--host", "127.0.0.1 "], '"127.0.0.1 "', "--port"],
  [["--json=true"], '--json takes no value, so it cannot be "true"'],
  [["--_=x"], '"--_=x"', "--help"],
];

/** For one script only: the code that looks at these is the same in all, as a test below holds. */
const ODD: Row[] = [
  [["--port="], "--port needs a value", 'not ""'],
  [["-p80x"], '"-p80x"', "--help"],
  [["--port", "12e3"], "--port", '"12e3"', "65535"],
  [["--port", "0x2ee0"], "--port", '"0x2ee0"', "65535"],
  [["--port", " 12000"], "--port", '" 12000"', "65535"],
  [["--port", "１２０００"], "--port", '"１２０００"', "65535"],
  [["--port", "1\n2"], "--port", '"1\\u{a}2"', "65535"],
  [["--port", "99999999999999999999"], "--port", '"99999999999999999999"', "65535"],
  [["--stop", "a", "--stop", ""], "--stop", '""'],
  [["--stop", "a", "--stop="], "--stop needs a value", '""'],
  [["--stop", "x".repeat(101)], "--stop needs a value, a word of 1 to 100 bytes"],
  [["--stop", "é".repeat(51)], "--stop needs a value, a word of 1 to 100 bytes"],
  [["--stop", "two\nlines"], "--stop needs a value", '"two\\u{a}lines"'],
  [["-qx"], '"-qx"', "--help"],
  [["-pq", "80"], '"80"', "--help"],
  [["-Hq", "-p"], "--host needs a value"],
  [["--_"], '"--_"', "--help"],
  [["-_", "x"], '"-_"', "--help"],
  [["--host", "-q", "hello"], '"hello"', "--help"],
  [["--host", "[::1]:12000"], '"[::1]:12000"', "--port"],
  [["--host", "::1:x"], '"::1:x"', "--port"],
  [["--host", "two\nlines"], '"two\\u{a}lines"', "--port"],
  [["--host", "[localhost]"], '"[localhost]"', "--port"],
  [["--host", " "], "--host needs a value, a name or an address"],
  [["--host", "\x1b[31mred"], '"\\u{1b}[31mred"'],
  [["-q=1"], '-q takes no value, so it cannot be "1"'],
  [["--quiet="], '--quiet takes no value, so it cannot be ""'],
  [["--help=x"], '--help takes no value, so it cannot be "x"'],
  [["--stop", "-"], '"-"', "--help"],
  [["--stop", " "], "--stop needs a value", '" "'],
  [["--HELP"], '"--HELP"', "--help"],
  [["--port.x", "1"], '"--port.x"', "--help"],
  [["--constructor"], '"--constructor"', "--help"],
  [["--__proto__=1"], '"--__proto__=1"', "--help"],
];

const SERVERS_WRONG: Row[] = [
  [["stray"], '"stray"', "--help"],
  [["--quiet", "stray"], '"stray"', "--help"],
  [["--", "--quiet"], '"--quiet"', "--help"],
  [["--port", "1"], "--port 1 ", "reserved", "1024", "65535"],
  [["--port", "80"], "--port 80 ", "reserved", "1024", "65535"],
  [["--port", "1023"], "--port 1023 ", "reserved", "1024", "65535"],
  [["--count", "1"], '"--count"', "--help"],
];

const CLIENTS_WRONG: Row[] = [
  [["--port", "0"], "--port", '"0"', "1 to 65535"],
  [["--timeout"], '--timeout needs a value, a number from 0.001 to 3600, not ""'],
  [["--timeout", "0"], "--timeout", '"0"'],
  [["--timeout", "1s"], "--timeout", '"1s"'],
  [["--timeout", "-1"], "--timeout", '"-1"'],
  [["--timeout", "Infinity"], "--timeout", '"Infinity"'],
  [["--once"], '"--once"', "--help"],
  [["--count", "3", "hello"], "--count", '"hello"'],
  [["--count", "3", "--no-echo"], "--count", "--no-echo"],
  [["--size", "100"], "--size is for numbered messages: it needs --count"],
  [["--interval=2", "hello"], "--interval is for numbered messages: it needs --count"],
  [["-s", "100"], "--size ", "--count"],
  [["-i0"], "--interval ", "--count"],
  [["-qs100"], "--size ", "--count"],
  [["-5"], 'unexpected "-5"', "behind -- it is a message"],
  [["--jsno", "hello"], 'unexpected "--jsno"', "behind -- it is a message"],
  [["-_"], '"-_"', "behind -- it is a message"],
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

/** A script's name, as its messages have it. */
function nameOf(script: string): string {
  return script.replace(/\.ts$/, "");
}

/** One line that starts with the script's name, and nothing that could steer a terminal. */
function assertOneLine(stderr: string, script: string): void {
  assertMatch(stderr, new RegExp(`^${nameOf(script)}: [^\\x00-\\x1f\\x7f-\\x9f]+\\n$`));
}

/** How `main` ends: the exit code that it means, and what it says. */
type Answer = { code: number; said: string };

/** What the `main` of a script answers to each of some command lines: one process for all of them. */
async function askMain(
  script: string,
  lines: string[][],
): Promise<Answer[]> {
  const stdin = `
    const { main } = await import("${fileUrl(script)}");
    let printed = "";
    const print = (bytes) => (printed += new TextDecoder().decode(bytes), bytes.length);
    Object.assign(Deno.stderr, { writeSync: print, write: async (bytes) => print(bytes) });
    const answers = [];
    for (const args of ${JSON.stringify(lines)}) {
      printed = "";
      answers.push(await main(args).then(async (code) => {
        while (code !== 0 && printed === "") await new Promise((resolve) => setTimeout(resolve));
        return { code, said: printed.trimEnd() };
      }, (error) => ({
        code: error.constructor.name === "UsageError" ? 2 : 1,
        said: error.message,
      })));
    }
    await new Blob([JSON.stringify(answers)]).stream().pipeTo(Deno.stdout.writable);
    Deno.exit();
  `;
  const { code, stdout, stderr } = await runScript("-", [], { allowNet: false, stdin });
  assertEquals([code, stderr], [0, ""]);
  return JSON.parse(stdout);
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
      const answers = await askMain(script, rows.map(([args]) => args));
      for (const [i, [args, ...says]] of rows.entries()) {
        await t.step(JSON.stringify(args), () => {
          const { code, said } = answers[i]!;
          assertOneLine(`${nameOf(script)}: ${said}\n`, script);
          for (const words of says) assertStringIncludes(said, words);
          assertEquals(code, 2);
        });
      }

      const [args, ...says] = rows[0]!;
      await t.step(`${JSON.stringify(args)}, as a process`, async () => {
        const { code, stdout, stderr } = await runScript(script, args, { allowNet: false });
        assertOneLine(stderr, script);
        for (const words of says) assertStringIncludes(stderr, words);
        assertEquals([code, stdout], [2, ""]);
      });
    },
  );

  Deno.test(`${script}: --help and --version, on stdout, exit 0`, LIMIT, async (t) => {
    for (const flag of ["--help", "-h"]) {
      await t.step(flag, async () => {
        const { code, stdout, stderr } = await runScript(script, [flag], { allowNet: false });
        assertEquals([code, stderr], [0, ""]);
        assertMatch(stdout, new RegExp(`\\b${script}\\s+\\[options\\]`));
        for (const line of stdout.split("\n")) assert(line.length <= 80, line);
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

  Deno.test({
    ...unless(
      Deno.build.os !== "linux" && "no /dev/full here",
      `${script}: help on a full disk is one line, exit 1`,
    ),
    ...LIMIT,
    fn: async () => {
      for (const flag of ["--help", "--version"]) {
        const via = ["sh", "-c", 'exec "$@" > /dev/full', "sh"];
        const { code, stderr } = await runScript(script, [flag], { allowNet: false, via });
        const says = `${nameOf(script)}: cannot write to stdout: no space left on device\n`;
        assertEquals([code, stderr], [1, says]);
      }
    },
  });

  Deno.test(`${script}: an older Deno is told in one line, exit 1`, LIMIT, async () => {
    const versions = { "1.46.3": true, "2.9.4": true, "2.9.5": false, "2.10.0": false };
    for (const [version, old] of Object.entries(versions)) {
      await using program = spawn("-", ["--help"], { allowNet: false });
      const set = "Object.defineProperty(Deno, 'version', ";
      await program.write(`${set}{ value: { ...Deno.version, deno: "${version}" } });\n`);
      await program.write((await readSource(script)).replace(/^#!.*/, ""));
      await program.end();
      const { code, stdout, stderr } = await program.finish();
      const says = `Deno ${version} is too old: 2.9.5 or later is needed`;
      assertEquals([code, stderr], old ? [1, `${nameOf(script)}: ${says}\n`] : [0, ""]);
      assertEquals(stdout === "", old);
    }
  });

  Deno.test(`${script}: a missing permission is the exact flag, exit 1`, LIMIT, async (t) => {
    for (const host of ["127.0.0.1", "::1"]) {
      await t.step({
        ...unless(host === "::1" && !hasIpv6() && "no IPv6 loopback here", host),
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
          const [, allowNet] = /: behind deno run, .*, add --allow-net=(\S+)\n$/.exec(stderr) ?? [];
          assert(allowNet, stderr);
          for (const address of allowNet.split(",")) assertStringIncludes(address, host);

          await using program = spawn(script, args, { allowNet });
          if (!client) return void await program.port();
          assertEquals((await program.finish()).stdout, "hello\n");
        },
      });
    }
  });

  Deno.test({
    ...unless(
      Deno.build.os !== "linux" && "no /dev/full here",
      `${script}: what becomes of stderr changes no exit code`,
    ),
    ...LIMIT,
    fn: async (t) => {
      for (const stderr of ["2> /dev/full", "2>&-"]) {
        for (const [args, expected] of [[["--bad"], 2], [[], 1]] as const) {
          await t.step(`${args.join(" ") || "no permission"} ${stderr}`, async () => {
            const via = ["sh", "-c", `exec "$@" ${stderr}`, "sh"];
            const { code, stdout } = await runScript(script, [...args], { allowNet: false, via });
            assertEquals([code, stdout], [expected, ""]);
          });
        }
      }
    },
  });

  Deno.test(`${script}: of a value that is given twice the last counts`, LIMIT, async () => {
    const args = ["--host", "127.0.0.8", "-p", "12001", "-p", "12002", "-H", "127.0.0.9"];
    const { code, stderr } = await runScript(script, args, { allowNet: false });
    assertEquals(code, 1);
    const port = script === "udp_server.ts" ? "" : ":12002";
    const local = script === "udp_client.ts" ? "(?:127\\.0\\.0\\.1|0\\.0\\.0\\.0):0," : "";
    assertMatch(stderr, new RegExp(` add --allow-net=${local}127\\.0\\.0\\.9${port}\n$`));
  });
}

for (const script of CLIENTS) {
  Deno.test(`${script}: behind -- everything is a message`, LIMIT, async () => {
    await using server = spawn(script.replace("client", "server"), ["--port", "0"]);
    const messages = ["--json", "-_", "-5", "--help", "--", "--size", "--host=x"];
    const args = ["--port", `${await server.port()}`, "--", ...messages];
    const { code, stdout, stderr } = await runScript(script, args);
    assertEquals([code, stdout, stderr], [0, `${messages.join("\n")}\n`, ""]);
  });
}

for (const script of CLIENTS) {
  Deno.test(`${script}: a message may hold an equals sign`, LIMIT, async () => {
    await using server = spawn(script.replace("client", "server"), ["--port", "0"]);
    const messages = ["version=1.0", "this=x", "="]; // words of the lines of switches in the help
    const args = ["--port", `${await server.port()}`, ...messages];
    const { code, stdout, stderr } = await runScript(script, args);
    assertEquals([code, stdout, stderr], [0, `${messages.join("\n")}\n`, ""]);
  });
}

for (const script of SERVERS) {
  Deno.test(
    `${script}: a value in an argument of its own may hold an equals sign`,
    LIMIT,
    async () => {
      await using server = spawn(script, ["--port", "0", "--stop", "after=5"]);
      await server.port(); // it listens
    },
  );

  Deno.test({
    ...unless(NO_SIGNALS, `${script}: a stdout closed before the end`),
    ...LIMIT,
    fn: async () => {
      await using server = spawn(script, ["--port", "0"]);
      await server.port();
      await server.stdout.close(); // the totals are not read
      const { code, stderr } = await server.stop("SIGINT");
      assertEquals([code, stderr], [0, ""]);
    },
  });

  Deno.test(`${script}, on Windows: Ctrl-Break and SIGTERM end it in order`, LIMIT, async (t) => {
    for (const signal of ["SIGBREAK", "SIGINT", "SIGTERM"]) {
      await t.step(signal, async () => {
        await using server = spawn("-", [], { allowNet: "127.0.0.1" });
        await server.write(`
          const listeners: Record<string, () => void> = {};
          Object.defineProperty(Deno, "build", { value: { ...Deno.build, os: "windows" } });
          Deno.addSignalListener = (signal, listener) => void (listeners[signal] = listener);
          const { main } = await import(${JSON.stringify(fileUrl(script).href)});
          const code = main(["--port", "0"]);
          setTimeout(() => listeners["${signal}"]!());
          console.error("exit", await code);
        `);
        await server.end();
        const said = await server.stderr.until("\n");
        assertEquals(said, "exit 0\n");
        const { code, stdout } = await server.finish();
        assertEquals(code, 0);
        assertMatch(stdout, /^listening on .*\nstopped: /);
      });
    }
  });
}

// ---- The help text and the table of options ----

/** An option as the help text has it. */
type Option = { letter?: string; name: string; value?: string; text: string };

/** The options of a help text. */
function optionsIn(help: string): Option[] {
  const line = /^ {2}(?:-(\w), | {4})--([\w-]+)(?: ([A-Z]+)…?)? {2,}(\S.*)$/gm;
  return [...help.matchAll(line)].map(([, letter, name, value, text]) => ({
    ...(letter && { letter }),
    name: name!,
    ...(value && { value }),
    text: text!,
  }));
}

/** What a script gives to parseArgs, out of its source. */
type Table = {
  boolean: string[];
  string: string[];
  collect: string[];
  alias: Record<string, string>;
  default: Record<string, string | string[]>;
};

/** The table that stands in a script's `main`. */
async function tableOf(script: string): Promise<Table> {
  const source = await readSource(script);
  const [, table] = /\bparseArgs\(args, (\{\n[^]*?\n {2}\})\);/.exec(source) ?? [];
  assert(table, `${script} calls parseArgs(args, { … })`);
  const constants = source.slice(0, source.indexOf("\n/**", source.indexOf("\nimport ")))
    .match(/^const [A-Z_]+ = .*$/gm)!.join("\n");
  const values = table.replace(/^ *unknown: .*$/m, ""); // a function, in TypeScript
  return new Function(`${constants}\nreturn ${values};`)();
}

for (const script of SCRIPTS) {
  Deno.test(`${script}: the help text says what the command line does`, LIMIT, async (t) => {
    const { stdout: help } = await runScript(script, ["--help"], { allowNet: false });
    const options = optionsIn(help);
    const table = await tableOf(script);
    const named = (list: [string, unknown][]): Record<string, unknown> =>
      Object.fromEntries(list.sort(([a], [b]) => a < b ? -1 : 1));

    await t.step("every option of the table, and no other", () => {
      const names = [...table.boolean, ...table.string].filter((name) => name !== "_");
      assertEquals(options.map(({ name }) => name).sort(), names.sort());
    });

    await t.step("its letter", () => {
      const letters = options.filter(({ letter }) => letter)
        .map(({ name, letter }): [string, unknown] => [name, letter]);
      assertEquals(named(letters), named(Object.entries(table.alias)));
    });

    await t.step("whether it takes a value, and whether many", () => {
      const taking = options.filter(({ value }) => value).map(({ name }) => name);
      assertEquals(taking.sort(), table.string.filter((name) => name !== "_").sort());
      assertEquals(
        [...help.matchAll(/--([\w-]+) [A-Z]+…/g)].map(([, name]) => name),
        table.collect,
      );
    });

    await t.step("its default", () => {
      const told = options.flatMap(({ name, text }): [string, unknown][] => {
        const [, value] = /\(default (.+)\)/.exec(text) ?? [];
        return value === undefined ? [] : [[name, value]];
      });
      const real = Object.entries(table.default)
        .map(([name, value]): [string, unknown] => [name, [value].flat().join(", ")]);
      assertEquals(named(told), named(real));
    });

    // Without permission: what is in bounds gets as far as that, exit 1.
    const numeric = options.filter(({ value }) =>
      value && !["HOST", "WORD", "FILE"].includes(value)
    );
    const rows = numeric.flatMap(({ name, text }): [string, string, number][] => {
      const [, least = "", most = ""] = /(\d[\d.]*) to (\d+)/.exec(text) ?? [];
      const step = least.includes(".") ? 0.0001 : 1;
      const [below, above] = [Number(least) - step, Number(most) + 1];
      const inside: string[] = name === "port" && text.includes("not 1 to 1023") // or they are reserved
        ? [least, "1024", most]
        : [least, most];
      const outside = [`${below}`, `${above}`, ...(inside.length > 2 ? ["1", "1023"] : [])];
      return [
        ...inside.map((value): [string, string, number] => [name, value, 1]),
        ...outside.map((value): [string, string, number] => [name, value, 2]),
      ];
    });
    const answers = await askMain(
      script,
      rows.map(([name, value]) => {
        const others = ["size", "interval"].includes(name) ? ["--count", "1"] : [];
        return [`--${name}=${value}`, ...others];
      }),
    );
    for (const [i, [name, value, expected]] of rows.entries()) {
      await t.step(`--${name}=${value} is ${expected === 1 ? "in" : "out of"} bounds`, () => {
        const { code, said } = answers[i]!;
        assertEquals(code, expected, said);
        if (expected === 1) assertStringIncludes(said, "no permission to use ");
      });
    }
  });
}

// ---- What is shared ----

/** The source of a script. */
async function readSource(script: string): Promise<string> {
  return decode(await Deno.readFile(fileUrl(script)));
}

/** Where a script is not what its leading scripts make of it: the mark of the first such block. */
function outOfSync(read: (script: string) => string): string[] {
  return [...synced(read)].flatMap(([script, source]) => {
    const [own, wanted] = [read(script).split("\n"), source.split("\n")];
    const at = own.findIndex((line, i) => line !== wanted[i]);
    if (at < 0 && own.length === wanted.length) return [];
    const mark = own.slice(0, at < 0 ? own.length : at).findLast((line) => MARK.test(line));
    return [`${script}: ${mark}`];
  });
}

const MARK = /^\/\/ ---- The same in (.*): edit it in (\w+\.ts), then `deno task sync`\. ----$/;

function readText(script: string): string {
  return Deno.readTextFileSync(fileUrl(script));
}

Deno.test("what scripts share is the same, to the letter", () => {
  assertEquals(outOfSync(readText), [], "shared blocks differ: run `deno task sync`");
});

Deno.test("a letter that differs in a shared block is found, and in which", () => {
  const [leader, other] = ["tcp_server.ts", "tcp_client.ts"];
  for (const text of ["class LineAssembler {", "function quote("]) {
    const changed = (script: string): string =>
      script === leader ? readText(script).replace(text, `${text} `) : readText(script);
    const found = outOfSync(changed).filter((line) => line.startsWith(other!));
    const before = readText(leader!).split(text)[0]!.split("\n");
    assertEquals(found, [`${other}: ${before.findLast((line) => MARK.test(line))}`]);
  }
});

Deno.test("each script has its shared blocks, that of all four last", () => {
  for (const script of SCRIPTS) {
    const [transport, side] = script.slice(0, -3).split("_");
    const marks = readText(script).split("\n").filter((line) =>
      line.startsWith("// ---- The same")
    );
    const blocks = marks.map((mark) => MARK.exec(mark)?.[1]);
    const names = [`both ${side}s`, `both ${transport!.toUpperCase()} scripts`, "all four scripts"];
    assertEquals(blocks.toSorted(), names.toSorted(), script);
    assertEquals(blocks.at(-1), "all four scripts", script);
  }
});
