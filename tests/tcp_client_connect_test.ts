/**
 * How `tcp_client.ts` connects, and how it gives up: its exported `connect`, and the process.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { connect, type ConnectOptions } from "../tcp_client.ts";
import { serve } from "../tcp_server.ts";
import {
  decode,
  DEFAULTS,
  exchange,
  fileUrl,
  freePort,
  hasIpv6,
  hasTool,
  LIMIT,
  LINUX,
  NO_SIGNALS,
  Program,
  readExactly,
  readToEnd,
  runScript,
  spawn,
  unless,
  WINDOWS,
  writeAll,
} from "./_helpers.ts";
import { makeNetwork } from "./_faults.ts";
import { NO_NETWORKS } from "./_needs.ts";
import { assertOneLine, start } from "./_tcp.ts";

/** A listener whose backlog is full, and those in it. */
async function listenFull(): Promise<{ listener: Deno.TcpListener; waiting: Deno.TcpConn[] }> {
  const options = { hostname: "127.0.0.1", port: 0, tcpBacklog: 1 }; // undeclared, but it works
  const listener = Deno.listen(options);
  const { port } = listener.addr;
  return { listener, waiting: [await Deno.connect({ port }), await Deno.connect({ port })] };
}

Deno.test({
  ...unless(!LINUX && "its full backlog is Linux's", "--timeout bounds the connect"),
  ...LIMIT,
  fn: async () => {
    const { listener, waiting } = await listenFull();
    using _listener = listener;
    const { port } = listener.addr;
    const args = ["--port", `${port}`, "--timeout", "0.2", "hello"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
    assertEquals([code, stdout], [1, ""]);
    assertMatch(stderr, /^tcp_client: cannot connect to 127\.0\.0\.1:\d+: no answer .*0\.2 s.*\n$/);
    for (const conn of waiting) conn.close();
  },
});

Deno.test("--wait keeps trying until the server is up", LIMIT, async (t) => {
  await t.step("connect", async () => {
    const port = freePort();
    const connecting = connect({ port, waitSeconds: 20 });
    await assertRejects(() => Deno.connect({ port }), Deno.errors.ConnectionRefused); // its first try too
    await using _server = serve({ port });
    using conn = await connecting;
    assertEquals(conn.remoteAddr.port, port);
  });

  await t.step("the process", async () => {
    const port = freePort();
    await using client = spawn("tcp_client.ts", ["--port", `${port}`, "--wait", "20", "hello"]);
    await using _server = spawn("tcp_server.ts", ["--port", `${port}`]);
    const { code, stdout } = await client.finish(); // it may have had to wait, and say so
    assertEquals([code, stdout], [0, "hello\n"]);
  });

  await t.step("but no longer than it is told", async () => {
    const port = freePort();
    const error = await connect({ port, waitSeconds: 0.2 }).catch((error) => error);
    assertMatch(error.message, /^cannot connect to 127\.0\.0\.1:\d+: connection refused/);
    assert(error.cause instanceof Deno.errors.ConnectionRefused);
  });
});

const ALONE = "ip link set lo up && echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range";
const CAN_BE_ALONE = hasTool("unshare", "-rn", "sh", "-c", ALONE);

Deno.test({
  ...unless(
    !CAN_BE_ALONE && "no network namespace with one local port here",
    "a connection to itself is no server",
  ),
  ...LIMIT,
  fn: async () => {
    // In a network of its own with one local port, the first try is from that port to itself.
    const via = ["unshare", "-rn", "sh", "-c", `${ALONE} && exec "$@"`, "sh"];
    const args = ["--port", "40000", "hello"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args, { via });
    assertEquals([code, stdout], [1, ""]);
    assertOneLine(stderr);
    assertStringIncludes(stderr, "cannot connect to 127.0.0.1:40000: connection refused");
  },
});

Deno.test("names and addresses", LIMIT, async (t) => {
  for (const host of ["localhost", "::1", "[::1]"]) {
    await t.step({
      ...unless(host.includes("::1") && !hasIpv6() && "no IPv6 loopback here", host),
      fn: async () => {
        const allow = { allowNet: host === "localhost" ? host : "[::1]" };
        await using server = spawn("tcp_server.ts", ["--host", host, "--port", "0"], allow);
        const to = ["--host", host, "--port", `${await server.port()}`];
        const { code, stdout, stderr } = await runScript("tcp_client.ts", [...to, "hello"], allow);
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
      },
    });
  }
});

Deno.test("the first signal ends it at once", LIMIT, async (t) => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    await t.step({
      ...unless(NO_SIGNALS, signal),
      fn: async () => {
        await using server = start();
        await using client = spawn("tcp_client.ts", server.to);
        await client.write("hello\n");
        assertEquals(await client.nextLine(), "hello");
        const { signal: diedOf, stderr } = await client.stop(signal);
        assertEquals([diedOf, stderr], [signal, ""]); // by itself, as a shell can see
      },
    });
  }
});

// ---- --wait: whatever the reason ----

/** A client that waits: it said so, once and in these words. */
async function assertWaits(client: Program, reason: RegExp): Promise<void> {
  const said = await client.stderr.nextLine();
  assertMatch(said, /^tcp_client: waiting for \S+: /);
  assertMatch(said, reason);
}

async function assertEchoed(client: Program): Promise<void> {
  const { code, stdout, stderr } = await client.finish();
  assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
}

Deno.test("--wait says once that it waits, and for what", LIMIT, async () => {
  const port = freePort();
  await using client = spawn("tcp_client.ts", ["--port", `${port}`, "--wait", "20", "hello"]);
  await assertWaits(client, new RegExp(`127\\.0\\.0\\.1:${port}: connection refused$`));
  await using _server = serve({ port });
  await assertEchoed(client);
});

Deno.test({
  ...unless(NO_NETWORKS, "--wait: the name is not found yet"),
  ...LIMIT,
  fn: async () => {
    const directory = await Deno.makeTempDir();
    try {
      for (const name of ["hosts", "resolv.conf"]) {
        Deno.writeTextFileSync(`${directory}/${name}`, "");
      }
      const script = `mount --bind ${directory}/hosts /etc/hosts
        mount --bind ${directory}/resolv.conf /etc/resolv.conf; exec "$@"`;
      const via = ["unshare", "-m", "sh", "-ec", script, "sh"];
      await using server = start();
      const args = [
        "--host",
        "echo.test",
        ...server.to,
        "--wait",
        "20",
        "--timeout",
        "20",
        "hello",
      ];
      await using client = spawn("tcp_client.ts", args, { via });
      await assertWaits(client, /: no name server answers$/);
      Deno.writeTextFileSync(`${directory}/hosts`, "127.0.0.1 echo.test\n");
      await assertEchoed(client);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

Deno.test({
  ...unless(NO_NETWORKS, "--wait: there is no way to it yet"),
  ...LIMIT,
  fn: async () => {
    using network = makeNetwork();
    const { via } = network;
    const args = ["--host", "10.77.0.1", "--wait", "20", "hello"];
    await using client = spawn("tcp_client.ts", args, { via });
    await assertWaits(client, /: network is unreachable$/);
    network.run("ip addr add 10.77.0.1/24 dev lo");
    await using _server = spawn("tcp_server.ts", ["--host", "10.77.0.1"], { via });
    await assertEchoed(client);
  },
});

Deno.test({
  ...unless(!LINUX && "its full backlog is Linux's", "--wait: nobody answers yet"),
  ...LIMIT,
  fn: async () => {
    const { listener, waiting } = await listenFull();
    using _listener = listener;
    const { port } = listener.addr;
    const args = ["--port", `${port}`, "--timeout", "0.3", "--wait", "20", "hello"];
    await using client = spawn("tcp_client.ts", args);
    await assertWaits(client, /: no answer within 0\.3 s$/);
    for (const conn of waiting) {
      conn.close();
      (await listener.accept()).close();
    }
    async function echoOne(): Promise<void> {
      using conn = await listener.accept();
      await writeAll(conn, await readExactly(conn, 6));
      await readToEnd(conn).catch(() => {});
    }
    while (!await echoOne().then(() => true, () => false)); // a try may have been given up
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
  },
});

Deno.test("what waiting cannot mend ends --wait at once", LIMIT, async () => {
  const error = await connect({ hostname: "two words", port: 1, waitSeconds: 600 })
    .catch((error) => error);
  assertMatch(error.message, /^cannot connect to two words:1: /);
});

Deno.test({
  ...unless(
    NO_NETWORKS || !hasTool("python3", "-V") && "no python3 here",
    "--timeout bounds the look-up of a name",
  ),
  ...LIMIT,
  fn: async () => {
    const directory = await Deno.makeTempDir();
    const mute = `
import socket, subprocess, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
sys.exit(subprocess.call(sys.argv[1:]))
`;
    try {
      Deno.writeTextFileSync(`${directory}/resolv.conf`, "nameserver 127.0.0.1\n");
      const script = `ip link set lo up
        mount --bind ${directory}/resolv.conf /etc/resolv.conf; exec python3 -c "$0" "$@"`;
      const via = ["unshare", "-mn", "sh", "-ec", script, mute];
      const args = ["--host", "echo.test", "--timeout", "0.5", "hello"];
      const startedAt = performance.now();
      const { code, stdout, stderr } = await runScript("tcp_client.ts", args, { via });
      assertEquals([code, stdout], [1, ""]);
      assertEquals(
        stderr,
        `tcp_client: cannot connect to echo.test:${DEFAULTS.port}: no answer within 0.5 s\n`,
      );
      assertLess(performance.now() - startedAt, 5_000); // the look-up itself gives up after 10 s
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

// ---- What it says where nobody listens ----

/** The strictest shell here: where zsh finds no file for `[::1]` it refuses the whole command. */
const SHELL = hasTool("zsh", "--version")
  ? ["zsh"]
  : hasTool("bash", "--version")
  ? ["bash", "-O", "failglob"]
  : ["sh"];

Deno.test({
  ...unless(WINDOWS && "no sh here", "the command that it suggests works as it stands"),
  ...LIMIT,
  fn: async (t) => {
    const rows: [string[], missing: string | false][] = [
      [[], false],
      [["--host", "localhost"], false],
      [["--host", "127.0.0.2"], !LINUX && "one address on loopback here"],
      [["--host", "::1"], !hasIpv6() && "no IPv6 loopback here"],
      [["-H", "[::1]"], !hasIpv6() && "no IPv6 loopback here"],
    ];
    for (const cwd of [fileUrl("."), fileUrl("tests/")]) {
      for (const [host, missing] of rows) {
        const where = cwd.href.endsWith("tests/") ? "elsewhere" : "beside the scripts";
        await t.step({
          ...unless(missing, `${host.join(" ") || "the default host"}, ${where}`),
          fn: async () => {
            const args = [...host, "--port", `${freePort()}`, "hello"];
            const allowNet = "127.0.0.1,127.0.0.2,localhost,[::1]";
            const options = { cwd, allowNet };
            const { code, stderr } = await runScript("tcp_client.ts", args, options);
            assertEquals(code, 1);
            assertOneLine(stderr);
            const [, command] =
              /connection refused\. Start the server first: (.*)\n$/.exec(stderr) ??
                [];
            assert(command, stderr);
            const env = {
              PATH: `${Deno.execPath().replace(/\/[^/]*$/, "")}:${Deno.env.get("PATH")}`,
            };
            const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
            const [sh, ...flags] = SHELL;
            const shell = { args: [...flags, "-c", `exec ${command}`], cwd, env, ...piped };
            await using server = new Program(command, new Deno.Command(sh!, shell).spawn());
            await server.nextLine();
            const client = await runScript("tcp_client.ts", args, options);
            assertEquals([client.code, client.stdout, client.stderr], [0, "hello\n", ""]);
          },
        });
      }
    }
  },
});

Deno.test({
  ...unless(WINDOWS && "no sh here", "the command that it suggests is quoted, whatever the folder"),
  ...LIMIT,
  fn: async () => {
    const directory = await Deno.makeTempDir({ suffix: " it's [here]" });
    try {
      await Deno.copyFile(fileUrl("tcp_client.ts"), `${directory}/tcp_client.ts`);
      const config = ["--config", fileUrl("deno.json").pathname, "--allow-net=127.0.0.1"];
      const args = ["run", ...config, `${directory}/tcp_client.ts`, "-p", `${freePort()}`, "hello"];
      const { stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
      const [, command] = /Start the server first: (.*)\n$/.exec(decode(stderr)) ?? [];
      const [sh, ...flags] = SHELL;
      const words = { args: [...flags, "-c", `printf '%s\\n' ${command}`] };
      const { stdout } = await new Deno.Command(sh!, words).output();
      const script = decode(stdout).split("\n")[3]; // deno, run, --allow-net
      assertEquals(script && new URL(script), toFileUrl(`${directory}/tcp_server.ts`));
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

/** The file URL of a path: its parts may have any letter. */
function toFileUrl(path: string): URL {
  const url = new URL("file:///");
  url.pathname = path.replaceAll("%", "%25");
  return url;
}

Deno.test("an executable suggests the other executable", LIMIT, async () => {
  const port = freePort();
  await using program = spawn("-", [], { allowNet: "127.0.0.1,localhost" });
  await program.write(`
    Object.defineProperty(Deno, "build", { value: { ...Deno.build, standalone: true } });
    const { connect } = await import(${JSON.stringify(fileUrl("tcp_client.ts").href)});
    for (const hostname of ["127.0.0.1", "localhost"]) {
      const error = await connect({ hostname, port: ${port} }).catch((error) => error);
      console.log(error.message.split(": ").at(-1));
    }
  `);
  await program.end();
  const { stdout, stderr } = await program.finish();
  assertEquals(stderr, "");
  assertEquals(stdout, `tcp_server --port ${port}\ntcp_server --host localhost --port ${port}\n`);
});

Deno.test("errors of other systems, in their words, without a number", LIMIT, async (t) => {
  const refused = "Es konnte keine Verbindung hergestellt werden, da der Zielcomputer die " +
    "Verbindung verweigerte. (os error 10061)";
  const rows: [string, Error, RegExp][] = [
    [
      "a common one",
      Object.assign(new Deno.errors.ConnectionRefused(refused), { code: "ECONNREFUSED" }),
      /^cannot connect to \S+: es konnte keine .* verweigerte\. Start the server first: [^.]/,
    ],
    [
      "one that Deno's table does not have",
      new Error("Ein Socketvorgang ist fehlgeschlagen. (os error 10099)"),
      /^cannot connect to 127\.0\.0\.1:\d+: ein Socketvorgang ist fehlgeschlagen$/,
    ],
  ];
  for (const [name, cause, says] of rows) {
    await t.step(name, async () => {
      const { connect: real } = Deno;
      try {
        Deno.connect = (): Promise<never> => Promise.reject(cause);
        const error = await connect({ port: 12_345 }).catch((error) => error);
        assertMatch(error.message, says);
        assert(!/\.\.|os error/.test(error.message.replace(/file:\S+/, "")), error.message);
        assertEquals(error.cause, cause);
      } finally {
        Deno.connect = real;
      }
    });
  }
});

// ---- Addresses ----

Deno.test({
  ...unless(NO_NETWORKS, "an address with a zone, on both sides"),
  ...LIMIT,
  fn: async (t) => {
    using network = makeNetwork();
    network.run(
      `ip link add here type veth peer name there && ip link set here up && ip link set there up
      ip addr add fe80::1/64 dev here nodad`,
    );
    for (const host of ["fe80::1%here", "[fe80::1%here]"]) {
      await t.step(host, async () => {
        const options = { via: network.via, allowNet: `[fe80::1]:${DEFAULTS.port}` };
        await using server = spawn("tcp_server.ts", ["--host", host], options);
        assertMatch(await server.nextLine(), /^listening on tcp \[fe80::1(%\w+)?\]:\d+$/);
        const args = ["--host", host, "hello"];
        const { code, stdout, stderr } = await runScript("tcp_client.ts", args, options);
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
        await server.stop();
        const refused = await runScript("tcp_client.ts", args, options);
        assertMatch(refused.stderr, / '--allow-net=\[fe80::1\]:\d+' \S+ --host fe80::1%here\n$/);
      });
    }
  },
});

// ---- Signals ----

Deno.test({
  ...unless(
    NO_SIGNALS || !hasTool("setsid", "--version") && "no setsid here" ||
      !hasTool("bash", "--version") && "no bash here",
    "a Ctrl-C ends a shell's loop over it, as over any program",
  ),
  ...LIMIT,
  fn: async () => {
    await using server = start();
    const script = 'for i in 1 2 3; do echo "run $i"; "$@"; done; echo survived';
    const via = ["setsid", "bash", "-c", script, "bash"]; // a process group, as at a terminal
    await using loop = spawn("tcp_client.ts", server.to, { via });
    assertEquals(await loop.nextLine(), "run 1");
    await loop.write("hello\n");
    assertEquals(await loop.nextLine(), "hello");
    Deno.kill(-loop.pid, "SIGINT");
    const { signal, stdout, stderr } = await loop.finish();
    assertEquals([signal, stdout, stderr], ["SIGINT", "", ""]);
  },
});

Deno.test({
  ...unless(
    !hasTool("unshare", "-p", "-f", "--kill-child", "true") && "no process namespaces here",
    "as process 1 of a container it ends at a signal, too",
  ),
  ...LIMIT,
  fn: async (t) => {
    for (const [signal, expected] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
      await t.step(signal, async () => {
        await using server = start();
        const via = ["unshare", "-p", "-f", "--kill-child"];
        await using client = spawn("tcp_client.ts", server.to, { via });
        await client.write("hello\n");
        assertEquals(await client.nextLine(), "hello");
        const children = `/proc/${client.pid}/task/${client.pid}/children`;
        Deno.kill(Number(Deno.readTextFileSync(children)), signal);
        assertEquals((await client.finish()).code, expected);
      });
    }
  },
});

// ---- Reasons ----

Deno.test({
  ...unless(
    !CAN_BE_ALONE && "no network namespace with one local port here",
    "no local port is free: both scripts say that",
  ),
  ...LIMIT,
  fn: async (t) => {
    const taken = `import socket, subprocess, sys
sock = socket.create_server(("127.0.0.1", 12001))
end = socket.create_connection(("127.0.0.1", 12001)) # the one local port
sys.exit(subprocess.call(sys.argv[1:]))`;
    const via = ["unshare", "-rn", "sh", "-c", `${ALONE} && exec python3 -c "$0" "$@"`, taken];
    const rows: [string, string[], string][] = [
      ["tcp_client.ts", ["-p", "12001", "hello"], "cannot connect to 127.0.0.1:12001"],
      ["tcp_server.ts", ["-p", "0"], "cannot listen on 127.0.0.1:0"],
    ];
    for (const [script, args, what] of rows) {
      await t.step(script, async () => {
        const { code, stdout, stderr } = await runScript(script, args, { via });
        const says = `${script.slice(0, -3)}: ${what}: no local port is free\n`;
        assertEquals([code, stdout, stderr], [1, "", says]);
      });
    }
  },
});

Deno.test("an address that is not this machine's keeps the system's words", LIMIT, async () => {
  const allowNet = "192.0.2.1:0"; // TEST-NET-1
  const args = ["-H", "192.0.2.1", "-p", "0"];
  const { code, stderr } = await runScript("tcp_server.ts", args, { allowNet });
  assertEquals(code, 1);
  assertMatch(stderr, /^tcp_server: cannot listen on 192\.0\.2\.1:0: [^()]*address[^()]*\n$/);
  assert(!stderr.includes("no local port"), stderr);
});

/** A name server that answers each question with "no such name" (NXDOMAIN), in a network of its own. */
const NO_SUCH_NAME = `
import socket, subprocess, sys, threading
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
def answer():
    while True:
        query, peer = sock.recvfrom(512)
        sock.sendto(query[:2] + bytes([0x81, 0x83]) + query[4:6] + bytes(6) + query[12:], peer)
threading.Thread(target=answer, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:]))
`;

Deno.test({
  ...unless(
    NO_NETWORKS || !hasTool("python3", "-V") && "no python3 here",
    "a name that is not found, and no name server that answers, are told apart",
  ),
  ...LIMIT,
  fn: async (t) => {
    const directory = await Deno.makeTempDir();
    try {
      Deno.writeTextFileSync(
        `${directory}/resolv.conf`,
        "nameserver 127.0.0.1\noptions attempts:1\n",
      );
      const script = `ip link set lo up
        mount --bind ${directory}/resolv.conf /etc/resolv.conf; exec "$@"`;
      const there = ["python3", "-c", NO_SUCH_NAME];
      for (
        const [reason, resolver] of [
          ["name not found", there],
          ["no name server answers", []],
        ] as const
      ) {
        await t.step(reason, async () => {
          const via = ["unshare", "-mn", "sh", "-ec", script, "sh", ...resolver];
          const args = ["--host", "echo.test", "--timeout", "30", "hello"];
          const { code, stdout, stderr } = await runScript("tcp_client.ts", args, { via });
          assertEquals([code, stdout], [1, ""]);
          const address = `echo.test:${DEFAULTS.port}`;
          assertEquals(stderr, `tcp_client: cannot connect to ${address}: ${reason}\n`);
        });
      }
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

// ---- As a library ----

/** Runs `use` where each connection that is made is changed by `change`. */
async function changing(
  change: (conn: Deno.TcpConn) => void,
  use: () => Promise<void>,
): Promise<void> {
  const { connect: real } = Deno;
  try {
    Deno.connect = (async (options: Deno.ConnectOptions) => {
      const conn = await real(options);
      change(conn);
      return conn;
    }) as typeof Deno.connect;
    await use();
  } finally {
    Deno.connect = real;
  }
}

Deno.test("a socket option that fails costs nobody the connection", LIMIT, async (t) => {
  await using server = start();
  for (const option of ["setNoDelay", "setKeepAlive"] as const) {
    await t.step(option, async () => {
      const fail = (): never => {
        throw new Error("Invalid argument (os error 22)");
      };
      const change = (conn: Deno.TcpConn): void => {
        Object.defineProperty(conn, option, { value: fail });
      };
      await changing(change, async () => {
        using conn = await connect({ port: server.port });
        assertEquals(await exchange(conn, "hello\n"), "hello\n");
      });
    });
  }
});

Deno.test("a callback that throws ends connect, and leaves no connection", LIMIT, async (t) => {
  const failure = new Error("disk on fire");
  const fail = (): never => {
    throw failure;
  };
  await t.step("onTrace", async () => {
    await using server = start();
    const error = await connect({ port: server.port, onTrace: fail }).catch((error) => error);
    assertEquals(error, failure);
    await server.log.wait("close"); // it was closed
  });
  await t.step("onWarning", async () => {
    const options = { port: freePort(), waitSeconds: 60, onWarning: fail };
    assertEquals(await connect(options).catch((error) => error), failure);
  });
});

Deno.test("options out of their bounds are a RangeError that names them", LIMIT, async () => {
  const rows: [ConnectOptions, string][] = [
    [{ port: 0 }, "port"],
    [{ port: 65_536 }, "port"],
    [{ timeoutSeconds: Infinity }, "timeoutSeconds"],
    [{ timeoutSeconds: NaN }, "timeoutSeconds"],
    [{ timeoutSeconds: 0 }, "timeoutSeconds"],
    [{ waitSeconds: -1 }, "waitSeconds"],
    [{ waitSeconds: Infinity }, "waitSeconds"],
  ];
  const port = freePort();
  for (const [options, name] of rows) {
    const { message } = await assertRejects(() => connect({ port, ...options }), RangeError);
    assert(message.startsWith(`${name} needs a value`), message);
  }
});
