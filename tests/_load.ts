/**
 * The load that `bench.ts` puts on echo servers: clients that each send a message, await all of its
 * echo, and send the next.
 *
 * A client in Deno costs what a server in Deno costs, and two equally slow ends hide each other. So
 * on Linux the clients are bare sockets of libc, called through `Deno.dlopen` and watched with
 * epoll(7) in a loop that never awaits: about two thirds of a Deno server's time a message.
 * Elsewhere they are Deno's own sockets.
 *
 * @module
 */

type Transport = "tcp" | "udp";

const STALL_MS = 1_000; // without a byte: what is still owed is lost

/** What one measurement saw. */
export type Sample = {
  messages: number;
  lost: number; // never echoed, as UDP may
  seconds: number;
  latencies: Float64Array; // in µs, sorted
};

/** Clients of one server, each with a socket of its own. */
export interface Clients {
  /** For `ms`, every client sends `message`, awaits its echo, and again. */
  pingPong(message: Uint8Array<ArrayBuffer>, ms: number): Sample | Promise<Sample>;
  /** Every client sends `message` once. Returns how many got it back. */
  echoOnce(message: Uint8Array<ArrayBuffer>): number | Promise<number>;
  close(): void;
}

/** A way to make clients. */
export type Load = {
  about: string;
  open(transport: Transport, port: number, count: number): Clients | Promise<Clients>;
};

/** The fast load where it is to be had, unless `plain`. */
export function newLoad(plain: boolean): Load {
  if (plain || Deno.build.os !== "linux") {
    return { about: "sockets of Deno", open: openDenoClients };
  }
  return { about: "sockets of libc, and epoll", open: openLibcClients };
}

let numbered = 0; // messages

/**
 * Makes a message another than those before it, by letters at its start: what circulates is always
 * the same, so `udp_server.ts` leaves out one in 65,537 of those, and its client would stall.
 */
function renumber(message: Uint8Array): void {
  for (let i = 0, number = numbered++; i < 6; i++, number >>>= 4) message[i] = 0x61 + (number & 15);
}

function sample(started: number, times: number[], lost: number): Sample {
  const seconds = (performance.now() - started) / 1000;
  const latencies = Float64Array.from(times, (ms) => ms * 1000).sort();
  return { messages: times.length, lost, seconds, latencies };
}

// ---- Linux: sockets of libc. The numbers are those of its headers. ----

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EPOLL_CTL_ADD = 1;
const EPOLLIN = 1;

/** Of a struct epoll_event: events, data, and on all but x86-64 a hole between. */
const EVENT_WORDS = Deno.build.arch === "x86_64" ? 3 : 4;
const EVENT_DATA = EVENT_WORDS - 2;

const SYMBOLS = {
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept: { parameters: ["i32", "usize", "usize"], result: "i32" },
  recvfrom: {
    parameters: ["i32", "buffer", "usize", "i32", "buffer", "buffer"],
    result: "isize",
  },
  sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "isize" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  close: { parameters: ["i32"], result: "i32" },
  epoll_create1: { parameters: ["i32"], result: "i32" },
  epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
} as const;

let libc: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"] | undefined;

/** A struct sockaddr_in on loopback. */
function socketAddress(port: number): Uint8Array<ArrayBuffer> {
  const address = new Uint8Array(16);
  new Uint16Array(address.buffer)[0] = AF_INET;
  new DataView(address.buffer).setUint16(2, port);
  address.set([127, 0, 0, 1], 4);
  return address;
}

/** A struct epoll_event: `data` can be read. */
function readEvent(data: number): Int32Array<ArrayBuffer> {
  const event = new Int32Array(EVENT_WORDS);
  event[0] = EPOLLIN;
  event[EVENT_DATA] = data;
  return event;
}

function openLibcClients(transport: Transport, port: number, count: number): Clients {
  libc ??= Deno.dlopen("libc.so.6", SYMBOLS).symbols;
  const { socket, connect, setsockopt, send, recv, close } = libc;
  const { epoll_create1, epoll_ctl, epoll_wait } = libc;
  const fds: number[] = [];
  const epoll = epoll_create1(0);
  const events = new Int32Array(count * EVENT_WORDS);
  const buffer = new Uint8Array(65_536);
  const size = BigInt(buffer.length);

  const address = socketAddress(port);
  const on = new Int32Array([1]);
  const stall = new BigInt64Array([BigInt(STALL_MS / 1000), 0n]); // struct timeval
  for (let i = 0; i < count; i++) {
    const fd = socket(AF_INET, transport === "tcp" ? SOCK_STREAM : SOCK_DGRAM, 0);
    if (fd < 0) throw new Error("no socket: see ulimit -n");
    fds.push(fd);
    if (connect(fd, address, address.length) !== 0) {
      closeAll();
      throw new Error(`cannot connect to ${transport} 127.0.0.1:${port}`);
    }
    if (transport === "tcp") setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, on, on.byteLength);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, stall, stall.byteLength);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, readEvent(i));
  }

  /** @throws Error where a server closed or reset the connection */
  function receive(fd: number, flags: number): number {
    const received = Number(recv(fd, buffer, size, flags));
    if (received <= 0 && transport === "tcp") throw new Error("the server closed or stalled");
    return Math.max(received, 0);
  }

  function pingPong(message: Uint8Array<ArrayBuffer>, ms: number): Sample {
    const sent = new Int32Array(count); // bytes of the message under way
    const received = new Int32Array(count);
    const sentAt = new Float64Array(count);
    const times: number[] = [];

    /** As much as the socket takes. The rest goes when some of the echo is back. */
    function sendMore(i: number): void {
      if (sent[i] === message.length) return;
      if (sent[i] === 0) renumber(message);
      const rest = sent[i] === 0 ? message : message.subarray(sent[i]);
      const taken = send(fds[i]!, rest, BigInt(rest.length), MSG_DONTWAIT | MSG_NOSIGNAL);
      sent[i]! += Math.max(Number(taken), 0);
    }

    const started = performance.now();
    for (let i = 0; i < count; i++) {
      sentAt[i] = performance.now();
      sendMore(i);
    }
    let owed = count;
    while (owed > 0) {
      const ready = epoll_wait(epoll, events, count, STALL_MS);
      if (ready <= 0) break;
      for (let at = EVENT_DATA; at < ready * EVENT_WORDS; at += EVENT_WORDS) {
        const i = events[at]!;
        received[i]! += receive(fds[i]!, MSG_DONTWAIT);
        if (received[i]! >= message.length) {
          const now = performance.now();
          times.push(now - sentAt[i]!);
          sent[i] = received[i] = 0;
          sentAt[i] = now;
          if (now - started >= ms) {
            owed--;
            continue;
          }
        }
        sendMore(i);
      }
    }
    return sample(started, times, owed);
  }

  function echoOnce(message: Uint8Array<ArrayBuffer>): number {
    for (const fd of fds) send(fd, message, BigInt(message.length), MSG_NOSIGNAL);
    let echoed = 0;
    for (const fd of fds) {
      let received = 0;
      for (let got = 1; got > 0 && received < message.length; received += got) got = receive(fd, 0);
      if (received < message.length) break; // one that waits in vain is enough
      echoed++;
    }
    return echoed;
  }

  function closeAll(): void {
    for (const fd of fds) close(fd);
    close(epoll);
  }

  return { pingPong, echoOnce, close: closeAll };
}

/** Sends a datagram from each of `count` hosts of 127.0.0.0/8, the number `first` and those behind. */
export function sendFrom(port: number, { first, count }: { first: number; count: number }): void {
  libc ??= Deno.dlopen("libc.so.6", SYMBOLS).symbols;
  const server = socketAddress(port);
  const source = socketAddress(0);
  const bytes = new TextEncoder().encode("hello");
  for (let number = first; number < first + count; number++) {
    const fd = libc.socket(AF_INET, SOCK_DGRAM, 0);
    const host = number + 256; // 127.0.1.0 is the first: the others are those of clients
    source.set([127, host >> 16, host >> 8, host], 4);
    if (libc.bind(fd, source, source.length) !== 0) throw new Error("cannot bind");
    libc.sendto(fd, bytes, BigInt(bytes.length), 0, server, server.length);
    libc.close(fd);
  }
}

/** An echo server of the same kind: what this load and this machine can do. */
function serveLibc(transport: Transport, port: number): void {
  const { socket, bind, listen, accept, setsockopt, send, recv, close, recvfrom, sendto } = libc ??=
    Deno.dlopen("libc.so.6", SYMBOLS).symbols;
  const server = socket(AF_INET, transport === "tcp" ? SOCK_STREAM : SOCK_DGRAM, 0);
  const buffer = new Uint8Array(65_536);
  const size = BigInt(buffer.length);
  const on = new Int32Array([1]);
  const epoll = libc.epoll_create1(0);
  const events = new Int32Array(64 * EVENT_WORDS);
  const peer = new Uint8Array(16);
  const peerLength = new Int32Array([peer.length]);
  if (bind(server, socketAddress(port), 16) !== 0) throw new Error("cannot bind");
  if (transport === "tcp") listen(server, 511);
  libc.epoll_ctl(epoll, EPOLL_CTL_ADD, server, readEvent(server));

  function answer(fd: number): void {
    if (transport === "udp") {
      const length = recvfrom(fd, buffer, size, 0, peer, peerLength);
      sendto(fd, buffer, BigInt(length), 0, peer, peer.length);
    } else if (fd === server) {
      const conn = accept(server, 0n, 0n);
      setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, on, on.byteLength);
      libc!.epoll_ctl(epoll, EPOLL_CTL_ADD, conn, readEvent(conn));
    } else {
      const length = recv(fd, buffer, size, 0);
      if (length > 0) send(fd, buffer, BigInt(length), MSG_NOSIGNAL);
      else close(fd);
    }
  }

  const parent = Deno.ppid;
  for (let ready = 0; ready > 0 || Deno.ppid === parent;) { // not longer than the bench lives
    ready = libc.epoll_wait(epoll, events, 64, STALL_MS);
    for (let i = 0; i < ready; i++) answer(events[i * EVENT_WORDS + EVENT_DATA]!);
  }
}

// ---- Everywhere: sockets of Deno. ----

/** One client: sends a message, and returns once its echo is there. */
type Peer = { exchange(message: Uint8Array<ArrayBuffer>): Promise<void>; close(): void };

async function openDenoClients(
  transport: Transport,
  port: number,
  count: number,
): Promise<Clients> {
  const peers: Peer[] = [];
  for (let i = 0; i < count; i++) {
    peers.push(transport === "tcp" ? await tcpPeer(port) : udpPeer(port));
  }
  let started = 0;
  let times: number[] = [];

  async function converse(peer: Peer, message: Uint8Array<ArrayBuffer>, ms: number): Promise<void> {
    for (let now = performance.now(); now - started < ms;) {
      renumber(message);
      await peer.exchange(message);
      const then = now;
      now = performance.now();
      times.push(now - then);
    }
  }

  /** How many of `works` are done before they stall. */
  async function endedOf(works: Promise<void>[], ms: number): Promise<number> {
    let ended = 0;
    const all = Promise.allSettled(works.map((work) => work.then(() => ended++)));
    let timer;
    const late = new Promise((resolve) => timer = setTimeout(resolve, ms + STALL_MS));
    await Promise.race([all, late]);
    clearTimeout(timer);
    return ended;
  }

  return {
    async pingPong(message, ms): Promise<Sample> {
      started = performance.now();
      times = [];
      const ended = await endedOf(peers.map((peer) => converse(peer, message, ms)), ms);
      return sample(started, times, count - ended);
    },
    echoOnce: (message) => endedOf(peers.map((peer) => peer.exchange(message)), 0),
    close: () => peers.forEach((peer) => peer.close()),
  };
}

async function tcpPeer(port: number): Promise<Peer> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  conn.setNoDelay();
  const buffer = new Uint8Array(65_536);
  async function send(message: Uint8Array): Promise<void> {
    for (let rest = message; rest.length > 0;) rest = rest.subarray(await conn.write(rest));
  }
  return {
    async exchange(message): Promise<void> {
      const sending = send(message);
      for (let received = 0; received < message.length;) {
        const size = await conn.read(buffer);
        if (size === null) throw new Error("the server closed");
        received += size;
      }
      await sending;
    },
    close: () => conn.close(),
  };
}

function udpPeer(port: number): Peer {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const server = { transport: "udp", hostname: "127.0.0.1", port } as const;
  const buffer = new Uint8Array(65_536);
  return {
    async exchange(message): Promise<void> {
      await socket.send(message, server);
      await socket.receive(buffer);
    },
    close: () => socket.close(),
  };
}

if (import.meta.main) serveLibc(Deno.args[0] as Transport, Number(Deno.args[1]));
