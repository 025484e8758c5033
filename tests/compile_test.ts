/**
 * The scripts as executables and as installed commands, for any host and port: each from a folder
 * of its own, and what it says where it was given less.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { sectionOf } from "./_docs.ts";
import { decode, fileUrl, freePort, LIMIT, LINUX, Program, SCRIPTS, unless } from "./_helpers.ts";

const DOWNLOAD_MS = 20_000; // for the base binary, once: Deno keeps it
const UNIX = Deno.build.os !== "windows";
/** Any ELF file can stand for the base binary, to look at what is put into it. */
const STAND_IN = "/bin/true";
const NAMES = SCRIPTS.map((script) => script.replace(/\.ts$/, ""));

/** Runs Deno to its end. */
async function deno(
  args: string[],
  options: { cwd?: string | URL; env?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<{ success: boolean; stdout: string; stderr: string }> {
  const env = { NO_COLOR: "1", ...options.env };
  const piped = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
  const command = new Deno.Command(Deno.execPath(), { args, ...options, ...piped, env });
  const { success, stdout, stderr } = await command.output();
  return { success, stdout: decode(stdout), stderr: decode(stderr) };
}

/** Why no executable that runs can be made here, or nothing. */
async function whyNotCompile(): Promise<string> {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${directory}/empty.ts`, "");
    const args = ["compile", "--no-config", "--output", `${directory}/empty`];
    const signal = AbortSignal.timeout(DOWNLOAD_MS);
    const { success, stderr } = await deno([...args, `${directory}/empty.ts`], { signal });
    if (success) return "";
    if (/base binary|^$/.test(stderr)) {
      return "the base binary of deno compile cannot be downloaded";
    }
    throw new Error(stderr);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Runs what `deno task compile` runs, with another directory for `dist`, and looks at that. */
async function withExecutables(
  env: Record<string, string>,
  look: (dist: string) => Promise<void>,
): Promise<void> {
  const { tasks } = JSON.parse(await Deno.readTextFile(fileUrl("deno.json")));
  const dist = await Deno.makeTempDir();
  try {
    const command = tasks.compile.command.replaceAll(" dist/", ` ${dist}/`)
      .replaceAll(/ compile (?!.*--no-check)/g, " compile --no-check "); // the gate has checked them
    const { success, stderr } = await deno(["task", "--eval", command], { cwd: fileUrl("."), env });
    assert(success, stderr);
    await look(dist);
  } finally {
    await Deno.remove(dist, { recursive: true });
  }
}

/** Starts a command that was made of a script, in a folder that has nothing to do with it. */
function start(path: string, args: string[], cwd: string): Program {
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  // An installed command looks for `deno` on the PATH.
  const PATH = `${Deno.execPath().replace(/\/[^/]*$/, "")}:${Deno.env.get("PATH")}`;
  return new Program(path, new Deno.Command(path, { args, cwd, env: { PATH }, ...piped }).spawn());
}

/** Both pairs of commands in `directory` talk, on a port that is chosen now. */
async function assertTheyTalk(directory: string): Promise<void> {
  const cwd = await Deno.makeTempDir();
  try {
    for (const transport of ["tcp", "udp"]) {
      await using server = start(`${directory}/${transport}_server`, ["--port", "0"], cwd);
      const args = ["--port", `${await server.port()}`, "Hello", "stop"];
      await using client = start(`${directory}/${transport}_client`, args, cwd);
      const { code, stdout, stderr } = await client.finish();
      assertEquals([code, stdout, stderr], [0, "Hello\nstop\n", ""]);
      assertEquals((await server.stop()).code, 0);
    }
  } finally {
    await Deno.remove(cwd, { recursive: true });
  }
}

/** A command that was given less says what it needs, and where that is added. */
async function assertSaysWhatLacks(path: string, where: string): Promise<void> {
  const port = freePort();
  await using program = start(path, ["--port", `${port}`], "/");
  const { code, stdout, stderr } = await program.finish();
  assertEquals([code, stdout], [1, ""]);
  assertStringIncludes(stderr, "no permission to use 127.0.0.1");
  assertStringIncludes(stderr, where);
  assertStringIncludes(stderr, "add --allow-net=127.0.0.1");
}

Deno.test({
  ...unless(
    !LINUX && "the stand-in for the base binary is of Linux",
    "deno task compile: four executables, each with all of net inside and nothing else",
  ),
  ...LIMIT,
  fn: () =>
    withExecutables({ DENORT_BIN: STAND_IN }, async (dist) => {
      const names = [...Deno.readDirSync(dist)].map(({ name }) => name);
      assertEquals(names.sort(), NAMES.toSorted());
      for (const name of NAMES) {
        const contents = new TextDecoder("latin1").decode(await Deno.readFile(`${dist}/${name}`));
        const permissions = JSON.parse(/"permissions":({[^{}]*})/.exec(contents)![1]!);
        const allowed = Object.keys(permissions)
          .filter((key) => key.startsWith("allow_") && key !== "allow_import" && permissions[key]);
        // An empty list is all hosts; a script imports nothing when it runs.
        assertEquals([allowed, permissions.allow_net], [["allow_net"], []], name);
        assertStringIncludes(contents, '"features":["net"]', name); // --unstable-net, for UDP
      }
    }),
});

const reason = UNIX ? await whyNotCompile() : "the names of executables are those of Unix";
Deno.test({
  ...unless(reason, "deno task compile: the executables talk to each other"),
  timeout: 120_000, // ms: a base binary has 100 MB, and they are written four times
  fn: () => withExecutables({}, assertTheyTalk),
});

Deno.test({
  ...unless(reason, "an executable that was given less names the flag, at deno compile"),
  timeout: 120_000, // ms
  async fn(): Promise<void> {
    const directory = await Deno.makeTempDir();
    const path = `${directory}/tcp_client`;
    try {
      const less = ["--allow-net=127.0.0.1:12000", "--output", path, "tcp_client.ts"];
      const { success, stderr } = await deno(["compile", "--no-check", "--quiet", ...less], {
        cwd: fileUrl("."),
      });
      assert(success, stderr);
      await assertSaysWhatLacks(path, "at deno compile add");
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

/** Runs `main` of a script as if it were compiled, and prints its error. */
const asIfCompiled = (script: string): string => `
Object.defineProperty(Deno, "build", { value: { ...Deno.build, standalone: true } });
const { main } = await import("${fileUrl(script)}");
await main(Deno.args).catch((error) => console.log(error.message));
await new Promise((resolve) => setTimeout(resolve, 100)); // for what it reports itself`;

Deno.test(
  "without a permission: the flag, and where it is added, however a script is run",
  LIMIT,
  async () => {
    const file = await Deno.makeTempFile({ suffix: ".js" });
    try {
      for (const script of SCRIPTS) {
        await Deno.writeTextFile(file, asIfCompiled(script));
        const run = (path: string): ReturnType<typeof deno> =>
          deno(["run", "--config", "deno.json", "--no-prompt", path, "--port", "23456"], {
            cwd: fileUrl("."),
          });
        const [plain, compiled] = [await run(script), await run(file)];
        const flag = /add (--allow-net=.*)\n/.exec(plain.stderr)?.[1];
        assert(flag, plain.stderr);
        const said = compiled.stdout + compiled.stderr; // thrown, or reported by main itself
        assertEquals(/at deno compile add (.*)\n/.exec(said)?.[1], flag);
        assertStringIncludes(plain.stderr, "deno run");
        assertStringIncludes(plain.stderr, "deno install");
      }
    } finally {
      await Deno.remove(file);
    }
  },
);

/** Runs a line of the README that installs a script, for a root of its own. */
async function install(line: string, root: string): Promise<void> {
  const [, ...args] = line.split(" ");
  const { success, stderr } = await deno([...args, "--root", root], { cwd: fileUrl(".") });
  assert(success, stderr);
}

Deno.test({
  ...unless(
    !UNIX && "installed commands are started as on Unix",
    "deno install, as in README.md: the commands talk, from another folder, on another port",
  ),
  ...LIMIT,
  async fn(): Promise<void> {
    const lines = sectionOf("README.md", "Installing").text.match(/^deno install .*$/gm)!;
    const root = await Deno.makeTempDir();
    try {
      assertEquals(lines.length, SCRIPTS.length);
      for (const line of lines) await install(line, root);
      await assertTheyTalk(`${root}/bin`);
    } finally {
      await Deno.remove(root, { recursive: true });
    }
  },
});

Deno.test({
  ...unless(
    !UNIX && "installed commands are started as on Unix",
    "an installed command that was given less names the flag, at deno install",
  ),
  ...LIMIT,
  async fn(): Promise<void> {
    const lines = sectionOf("README.md", "Installing").text.match(/^deno install .*$/gm)!;
    const root = await Deno.makeTempDir();
    try {
      for (const line of lines) {
        const least = line.includes("udp_server") ? "127.0.0.9" : "127.0.0.1:12000";
        await install(line.replace("--allow-net", `--allow-net=${least}`), root);
      }
      for (const name of NAMES) await assertSaysWhatLacks(`${root}/bin/${name}`, "at deno install");
    } finally {
      await Deno.remove(root, { recursive: true });
    }
  },
});
