/**
 * The scripts as executables and as installed commands, each with the permissions that the README
 * gives it.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { sectionOf } from "./_docs.ts";
import { decode, fileUrl, freePort, LIMIT, Program, SCRIPTS } from "./_helpers.ts";

const DOWNLOAD_MS = 20_000; // for the base binary, once: Deno keeps it
const LINUX = Deno.build.os === "linux";
const UNIX = Deno.build.os !== "windows";
/** Any ELF file can stand for the base binary, to look at what is put into it. */
const STAND_IN = "/bin/true";

/** The least permissions of each script. */
const NET: Record<string, string[]> = {
  tcp_server: ["127.0.0.1:12000"],
  tcp_client: ["127.0.0.1:12000"],
  udp_server: ["127.0.0.1"],
  udp_client: ["127.0.0.1:0", "127.0.0.1:12000"],
};

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

Deno.test({
  name: "deno task compile: four executables, each with its own permissions inside" +
    (LINUX ? "" : " (ignored: the stand-in for the base binary is of Linux)"),
  ignore: !LINUX,
  ...LIMIT,
  fn: () =>
    withExecutables({ DENORT_BIN: STAND_IN }, async (dist) => {
      const names = [...Deno.readDirSync(dist)].map(({ name }) => name);
      assertEquals(names.sort(), Object.keys(NET).sort());
      for (const [name, hosts] of Object.entries(NET)) {
        const contents = new TextDecoder("latin1").decode(await Deno.readFile(`${dist}/${name}`));
        const permissions = JSON.parse(/"permissions":({[^{}]*})/.exec(contents)![1]!);
        const allowed = Object.keys(permissions)
          .filter((key) => key.startsWith("allow_") && key !== "allow_import" && permissions[key]);
        assertEquals([allowed, permissions.allow_net], [["allow_net"], hosts], name);
        assertStringIncludes(contents, '"features":["net"]', name); // --unstable-net, for UDP
      }
    }),
});

const reason = UNIX ? await whyNotCompile() : "the names of executables are those of Unix";
Deno.test({
  name: `deno task compile: the executables run${reason && ` (ignored: ${reason})`}`,
  ignore: reason !== "",
  timeout: 120_000, // ms: a base binary has 100 MB, and they are written four times
  fn: () =>
    withExecutables({}, async (dist) => {
      for (const name of Object.keys(NET)) {
        const { stdout } = await new Deno.Command(`${dist}/${name}`, { args: ["--version"] })
          .output();
        assertStringIncludes(decode(stdout), `${name} `);
        const args = ["--host", "127.0.0.9"];
        const options = { args, stdin: "null" } as const;
        const { code, stderr } = await new Deno.Command(`${dist}/${name}`, options).output();
        assertEquals(code, 1);
        assertStringIncludes(decode(stderr), "no permission to use 127.0.0.9");
      }
    }),
});

Deno.test({
  name: "deno install, as in the README: the commands talk to each other" +
    (UNIX ? "" : " (ignored: they are started as on Unix)"),
  ignore: !UNIX,
  ...LIMIT,
  async fn(): Promise<void> {
    const port = `${freePort()}`;
    const { text } = sectionOf("README.md", "Installing");
    const installs = text.replaceAll("12000", port).match(/^deno install .*$/gm)!;
    const root = await Deno.makeTempDir();
    const path = `${Deno.execPath().replace(/\/[^/]*$/, "")}:${Deno.env.get("PATH")}`;
    function start(name: string, ...args: string[]): Program {
      const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
      const options = { args: ["--port", port, ...args], env: { PATH: path }, ...piped };
      return new Program(name, new Deno.Command(`${root}/bin/${name}`, options).spawn());
    }
    try {
      assertEquals(installs.length, SCRIPTS.length);
      for (const install of installs) {
        const [, ...args] = install.split(" ");
        const { success, stderr } = await deno([...args, "--root", root], { cwd: fileUrl(".") });
        assert(success, stderr);
      }
      for (const transport of ["tcp", "udp"]) {
        await using server = start(`${transport}_server`);
        assertEquals(await server.port(), Number(port));
        await using client = start(`${transport}_client`, "Hello", "stop");
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stdout, stderr], [0, "Hello\nstop\n", ""]);
        assertEquals((await server.stop()).code, 0);
      }
    } finally {
      await Deno.remove(root, { recursive: true });
    }
  },
});
