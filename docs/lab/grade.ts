/**
 * Grades an echo server or client of the lab, in whatever language it is written, and says which
 * mistake a failed check usually means. It talks to a server as clients do, and plays the server for
 * a client, whose keyboard it is.
 *
 * ```sh
 * deno run --allow-net docs/lab/grade.ts tcp-server 127.0.0.1:12000
 * deno run --allow-net --allow-run docs/lab/grade.ts tcp-server -- python3 my_server.py {port}
 * deno run --allow-net --allow-run docs/lab/grade.ts udp-client -- python3 my_client.py 127.0.0.1 {port}
 * ```
 *
 * What is asked and what is not:
 * - A check of a task is what the handout's words ask for. A check with a `+` is beyond them: what
 *   a program needs in real use, and may lack in a lab. Only `--strict` counts it in the exit code.
 * - An echo is the same bytes in the same order, and nothing else. What a program prints around a
 *   sentence (a prefix, a prompt) is its own matter, on stdout or stderr.
 * - Whether sentences end with a line end is for client and server to agree on. A client may send
 *   them with LF, CRLF or neither. To a server each goes as one piece with an LF, so that a server
 *   that reads lines and one that echoes whatever comes both pass; other forms are checks with `+`.
 * - Of a server's stop words one is enough, with or without a line end behind it. Whether the word
 *   is found in two pieces is not checked, and its echo is a check with `+`.
 * - A client may end at its stop word by itself, or because the server closes. One that compares
 *   echoes may refuse a wrong one in place of printing it. At an empty sentence it may end.
 * - A lost datagram may be sent again or reported, within 6 seconds.
 * - A program that is judged by a check is started anew, wherever an earlier one left it in doubt.
 *   A check that needs what another found missing is not tried: one mistake, one `no`.
 *
 * Exit codes: 0 all tasks pass; 1 they do not; 2 wrong use; 130 SIGINT; 143 SIGTERM.
 *
 * @module
 */

import { connect as connectSocket } from "node:net"; // Deno's own sockets cannot reset
import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";

const NAME = "grade";
const HELP = `Grades an echo server or client of the lab, and says what is usually wrong.

Usage: deno run --allow-net docs/lab/grade.ts SERVER HOST:PORT
       deno run --allow-net --allow-run docs/lab/grade.ts KIND -- COMMAND…

KIND is tcp-server, udp-server, tcp-client or udp-client. In COMMAND, {port}
stands for the port to use, on 127.0.0.1. What a command prints is graded, too.

      --task N         grade what tasks 1 to N ask for: 1 prints only, nothing
                       comes back; 2 echoes; 3 goes on until a stop word
                       (default 3; over UDP, all three are task 4)
      --stop WORD      the program's own stop word (default: stop or exit)
      --port N         for a command that has its port in its code
      --strict         count the checks beyond the handout (+), too
      --allow-remote   let HOST be another machine than this
      --json           print one JSON object a line
  -h, --help           print this
`;

const ECHO_MS = 4_000; // for an echo or a printed line: what a busy machine takes, with a margin
const START_MS = 8_000; // for a program to start: compilers and virtual machines are slow
const NOTHING = `nothing in ${ECHO_MS / 1000} s`;
const ENDS_MS = 4_000; // for a client to end
const LOST_MS = 6_000; // for a client to miss a datagram: its timeout, and a margin
const STOP_MS = 1_000; // for what a program may do or not, before the grader goes on
const SILENCE_MS = 300; // in which nothing comes: a late one that is missed wrongs nobody
const LINE_END_MS = 50; // for a line end that a client sends by a write of its own
const RETRY_MS = 20; // between two looks whether a program has started
const CHECK_MS = 9_000; // a check is cut then: no program holds up the rest
const FAILURES_MS = 18_000; // failed checks take so long at most, and one more: under 30 s without hope
const TOTAL_MS = 50_000; // no check starts later, also where a slow machine passes them
const CHECKS_AT_ONCE = 4; // of a client, each with a process of its own
const MAX_READ = 8_388_608; // bytes of one peer, or characters of one program: then none is read
const LARGE_BYTES = 1_048_576; // more than the buffers of both ends usually hold
const WIDTH = 80; // columns of a terminal

/** What can be graded. */
export type Kind = "tcp-server" | "udp-server" | "tcp-client" | "udp-client";

/** What one check found. */
export type Verdict = {
  /** The handout's task, 1 to 4. */
  task: number;
  check: string;
  /** It is more than the handout asks for. */
  beyond: boolean;
  /** `null`: it was not tried; `came` says why. */
  ok: boolean | null;
  sent: string;
  came: string;
  /** What is usually wrong; empty if `ok` is not false. */
  mistake: string;
};

/** What to grade, and how. A server has an address or a command; a client has a command. */
export type GradeOptions = {
  kind: Kind;
  address?: { hostname: string; port: number };
  /** Program and arguments; `{port}` in them stands for the port. */
  command?: string[];
  /** Of a command that has no `{port}`. */
  port?: number;
  /** 1 to 4: what the program is graded as (default 3; 4 is the same over UDP). */
  task?: number;
  /** The program's stop words, one of which is enough (default `stop` and `exit`). */
  stop?: string[];
  /** Called with each verdict in its turn. */
  onVerdict?: (verdict: Verdict) => void;
};

/** What a failed check usually means. */
export const MISTAKES = {
  // Servers
  unreachable: "nobody listens there: bind() the port that was given, then listen(); start first",
  endedBefore: "it ended after an earlier client: accept() or recvfrom() belongs in a loop",
  printsNothing: "it does not print the sentence (or prints it only later: flush the output)",
  printsBytes: "it prints b'…', the bytes: decode() makes text of them",
  printsPart: "it prints a part: one recv() need not give all; go on until b'', or the line end",
  printsOther: "it prints other letters than were sent: they come as UTF-8",
  answersInTask1: "it sends something back, which task 1 does not ask for",
  noEcho: "it sends nothing back: sendall() what recv() gave, on accept()'s socket",
  noReply: "no reply: is it running? sendto() the address that recvfrom() gave, not a fixed one",
  closesUnanswered: "it closes without an answer: an exception, or close() before sendall()",
  sendsBytesAsText: "it sends str() of bytes, b'…': send the bytes themselves, encode()d once",
  addsToEcho: "it adds something of its own: an echo is what came, and nothing else",
  cutsLineEnd: "it takes the line end off (strip, readline) and does not give it back",
  cutsEcho: "it gives back a part: too small a buffer, or send() took less (use sendall())",
  changesEcho: "it gives back something else than came",
  decodesAscii: "it takes letters for ASCII: decode() as UTF-8, or echo the bytes as they are",
  decodesBytes: "it makes text of bytes that are none: echo the bytes, decode() only to print",
  emptyLineEnds: "it takes an empty line for the end: only b'' is the end, a line has its line end",
  oneLineARead: "it takes one read for one line: a read may bring two (TCP keeps no boundaries)",
  waitsForLine: "it waits for a line end (readline), and what input() gives has none",
  changesLineEnds: "it makes LF of CRLF: it reads text lines where bytes are meant",
  readsOnce: "it reads once: recv() or recvfrom() belongs in a loop",
  ignoresEnd: "it misses the end of input: when recv() gives b'', close the connection",
  cutsAtEnd: "it closes at the end of input, before all echoes are sent",
  losesMuch:
    "it loses some of much: send() may take less (use sendall()); at b'', close when all is out",
  oneClientEver: "it serves one client and no other: accept() belongs in a loop",
  oneAtATime: "it serves one client at a time: give each a thread (or a task, or select())",
  mixesClients: "it mixes its clients: each needs variables of its own, no global ones",
  noStopWord: "no stop word closes: compare what came, without its line end (--stop names another)",
  findsStopInside: "it looks for the word anywhere in the sentence: compare the whole",
  stopNotEchoed: "it closes at the word before echoing it (sendall() first, then break)",
  comparesLineEnd: "it compares the word with its line end: strip() first (telnet and nc send one)",
  stopEndsServer: "the word ends the whole server: close accept()'s socket, keep the listening one",
  diesOfReset: "a client's reset ends it: catch the error of recv() and sendall() at each client",
  diesOfLeaver: "a client that leaves in mid-sentence ends or blocks it: b'' may come any time",
  cutsDatagram: "recvfrom()'s buffer is too small: the rest of a datagram is lost; use 65507",
  emptyDatagram: "it takes an empty datagram for the end: over UDP, b'' is a message like others",
  repliesTwice: "it answers more than once: one datagram in, one out",
  onePeer: "it answers the first peer for ever: take the address of each recvfrom()",
  otherSocket: "it answers from another port: sendto() on the socket that received",
  // Clients
  sendsNothing: "it sends nothing: is it given the port, and does it read stdin (input())?",
  addsToSentence: "it sends more than the sentence and a line end",
  changesSentence: "it sends something else than was typed: encode() as UTF-8",
  sendsPart:
    "it sends a part, or in parts: the whole sentence belongs in one sendall() or sendto()",
  sendsTwice: "it sends the sentence more than once",
  endsUnasked: "it ends before it is done: an exception, or input() and recv() are in no loop",
  ignoresRefusal: "without a server it neither ends nor says so: report connect()'s error",
  showsNoEcho: "it does not print the echo: recv(), decode(), print() (and flush)",
  showsInput: "it prints what was typed, not what came back",
  readsEchoOnce: "it takes one recv() for the whole echo: go on until all that was sent is back",
  oneSentence: "it takes one sentence: input(), send, receive belong in a loop",
  reconnects: "it opens a new connection for each sentence: connect() once, before the loop",
  losesSecond:
    "of two sentences typed at once, the second's echo is not shown: two may come in one recv()",
  hangsOnEmpty: "it waits for the echo of nothing: sendall(b'') sends no byte",
  staysAfterStop:
    "it does not end at the stop word: leave the loop there, or when recv() gives b''",
  staysAtEnd:
    "it does not end at the end of input (Ctrl-D): readline() gives '' then, input() EOFError",
  ignoresServerEnd: "it goes on when the server is gone: recv() gives b'', which is no echo",
  endsWithoutWord: "it ends without a word: say that the server closed or cannot be reached",
  noTimeout: "it waits for ever for a lost datagram: settimeout(), then send again or say so",
  believesStranger: "it takes a datagram of anybody for the echo: compare recvfrom()'s address",
  believesDuplicate: "it takes a late copy of an old echo for the new one: compare the bytes",
} as const;

/** The name of a mistake. */
export type Mistake = keyof typeof MISTAKES;

/** A check: a row of one of the tables below. */
type Check<S> = {
  /** Which of the tasks 1 to 3 it is about, over UDP too; `+`: it is beyond what that asks for. */
  step: "1" | "1+" | "2" | "2+" | "3" | "3+";
  name: string;
  run: (subject: S) => Promise<Outcome>;
  /** Checks without which this one tells nothing new. */
  needs?: string[];
  /** Only where the program's output is seen. */
  output?: true;
};

/** What a check saw. */
type Outcome = { sent: string; came: string; mistake?: Mistake };

/** A check ends with this where the program did something else than it should. */
class Failed extends Error {
  readonly outcome: Outcome;

  constructor(sent: string, came: string, mistake: Mistake) {
    super(MISTAKES[mistake]);
    this.outcome = { sent, came, mistake };
  }
}

/** A check ends with this where it cannot be made. */
class Skipped extends Error {}

/** Of a server that is graded as task 1, over TCP or UDP. */
const PRINT_CHECKS: Check<Server>[] = [
  { step: "1", name: "prints the sentence", run: printsSentence, output: true },
  { step: "1", name: "sends nothing back", run: sendsNothingBack },
  { step: "1", name: "prints other letters", run: printsOtherLetters, output: true },
];

const TCP_PRINT_CHECKS: Check<Server>[] = [
  ...PRINT_CHECKS,
  { step: "1+", name: "prints two pieces", run: printsPieces, output: true },
  { step: "1+", name: "prints the next client's", run: printsNextClient, output: true },
];

const TCP_SERVER_CHECKS: Check<Server>[] = [
  { step: "1", name: "prints the sentence", run: printsSentence, output: true },
  { step: "2", name: "one sentence", run: echoesSentence },
  { step: "2+", name: "end of input", run: seesEnd, needs: ["one sentence"] },
  { step: "2+", name: "half-close at once", run: echoesBeforeEnd, needs: ["end of input"] },
  { step: "2+", name: "the next client", run: servesNextClient, needs: ["end of input"] },
  { step: "2", name: "other letters", run: echoesOtherLetters, needs: ["one sentence"] },
  { step: "2", name: "an empty line", run: echoesEmptyLine, needs: ["one sentence"] },
  { step: "2", name: "two lines in one piece", run: echoesTwoInOne, needs: ["one sentence"] },
  { step: "2+", name: "no line end", run: echoesWithoutLineEnd, needs: ["one sentence"] },
  { step: "2+", name: "CRLF", run: echoesCrlf, needs: ["one sentence"] },
  { step: "2+", name: "all 256 byte values", run: echoesAllBytes, needs: ["other letters"] },
  { step: "2+", name: "a line in two pieces", run: echoesPieces, needs: ["one sentence"] },
  {
    step: "2+",
    name: "1 MiB",
    run: echoesMebibyte,
    needs: ["two lines in one piece", "a line in two pieces", "half-close at once"],
  },
  { step: "3", name: "many sentences", run: echoesMany, needs: ["a line in two pieces"] },
  { step: "3", name: "stop word", run: closesAtStop, needs: ["many sentences"] },
  {
    step: "3+",
    name: "after a stop word",
    run: servesAfterStop,
    needs: ["stop word", "the next client"],
  },
  { step: "3", name: "stop word inside", run: echoesWordInside, needs: ["stop word"] },
  { step: "3+", name: "stop word's echo", run: echoesStopWord, needs: ["stop word"] },
  { step: "3+", name: "stop word and CRLF", run: closesAtStopCrlf, needs: ["stop word"] },
  {
    step: "3+",
    name: "beside a silent client",
    run: servesBesideSilent,
    needs: ["many sentences", "the next client"],
  },
  { step: "3+", name: "five at once", run: servesFive, needs: ["beside a silent client"] },
  {
    step: "3+",
    name: "after a reset",
    run: servesAfterReset,
    needs: ["many sentences", "the next client"],
  },
  {
    step: "3+",
    name: "after one left in mid-line",
    run: servesAfterLeaver,
    needs: ["many sentences", "the next client"],
  },
];

const UDP_SERVER_CHECKS: Check<Server>[] = [
  { step: "1", name: "prints the sentence", run: printsSentence, output: true },
  { step: "2", name: "one sentence", run: echoesSentence },
  { step: "2", name: "other letters", run: echoesOtherLetters, needs: ["one sentence"] },
  { step: "2", name: "one in, one out", run: echoesOneForOne, needs: ["one sentence"] },
  { step: "2", name: "two peers in turn", run: servesTwoPeers, needs: ["one in, one out"] },
  { step: "2", name: "1 byte", run: echoesDatagram(1), needs: ["one in, one out"] },
  { step: "2+", name: "1,472 bytes", run: echoesDatagram(1_472), needs: ["1 byte"] },
  { step: "2+", name: "8,192 bytes", run: echoesDatagram(8_192), needs: ["1,472 bytes"] },
  { step: "2+", name: "65,507 bytes", run: echoesDatagram(65_507), needs: ["8,192 bytes"] },
  { step: "2+", name: "0 bytes", run: echoesEmptyDatagram, needs: ["one in, one out"] },
  {
    step: "2+",
    name: "bytes that are no text",
    run: echoesNoText,
    needs: ["one in, one out", "other letters"],
  },
  { step: "3", name: "stop word inside", run: echoesWordInside, needs: ["one in, one out"] },
  { step: "3+", name: "after a stop word", run: servesAfterStop, needs: ["two peers in turn"] },
];

/** Of a client, whichever transport carries its sentences. */
const CLIENT_CHECKS: Check<Client>[] = [
  { step: "1", name: "sends what is typed", run: sendsTyped },
  {
    step: "1",
    name: "sends other letters",
    run: sendsOtherLetters,
    needs: ["sends what is typed"],
  },
  { step: "2", name: "prints the echo", run: printsEcho, needs: ["sends what is typed"] },
  { step: "2", name: "prints what came back", run: printsAnswer, needs: ["prints the echo"] },
  { step: "3", name: "many sentences", run: sendsMany, needs: ["prints the echo"] },
  { step: "3", name: "two typed at once", run: sendsTwoAtOnce, needs: ["many sentences"] },
  { step: "3", name: "stop word", run: endsAtStop, needs: ["many sentences"] },
  { step: "3+", name: "an empty sentence", run: sendsEmpty, needs: ["two typed at once"] },
  { step: "3+", name: "end of input", run: endsAtEndOfInput, needs: ["many sentences"] },
];

const TCP_CLIENT_CHECKS: Check<Client>[] = [
  ...CLIENT_CHECKS,
  { step: "1+", name: "no server", run: reportsRefusal },
  {
    step: "2+",
    name: "an echo in two pieces",
    run: printsPiecesOfEcho,
    needs: ["prints the echo"],
  },
  { step: "3+", name: "the server's end", run: reportsServerEnd, needs: ["many sentences"] },
];

const UDP_CLIENT_CHECKS: Check<Client>[] = [
  ...CLIENT_CHECKS,
  { step: "2+", name: "1,400 bytes", run: printsLongEcho, needs: ["prints the echo"] },
  { step: "2+", name: "a lost echo", run: noticesLoss, needs: ["prints the echo"] },
  { step: "2+", name: "a stranger's reply", run: ignoresStranger, needs: ["prints the echo"] },
  { step: "3+", name: "a late copy", run: ignoresDuplicate, needs: ["many sentences"] },
];

// ---- Checks of a server ----

/** Task 1: "The server process prints the sentence upon receiving it." */
async function printsSentence(server: Server): Promise<Outcome> {
  const sentence = `Hello ${randomWord()}`;
  return await printed(server, [`${sentence}\n`], sentence);
}

async function printsOtherLetters(server: Server): Promise<Outcome> {
  const sentence = `${randomWord()} grüßt 你好`;
  return await printed(server, [`${sentence}\n`], sentence);
}

async function printsPieces(server: Server): Promise<Outcome> {
  const [first, second] = [randomWord(), randomWord()];
  return await printed(server, [`${first} and `, `${second}\n`], second);
}

async function printsNextClient(server: Server): Promise<Outcome> {
  await printsSentence(server);
  const sentence = `Hello ${randomWord()}`;
  const again = printed(server, [`${sentence}\n`], sentence, { sameProcess: true });
  return await again.catch((error) => {
    if (!(error instanceof Failed)) throw error;
    throw new Failed(error.outcome.sent, error.outcome.came, "oneClientEver");
  });
}

/** Sends `pieces`, each when the one before has been dealt with, and waits until `text` is printed. */
async function printed(
  server: Server,
  pieces: string[],
  text: string,
  { sameProcess = false } = {},
): Promise<Outcome> {
  await using peer = await server.connect({ sameProcess });
  const mark = server.mark();
  for (const [i, piece] of pieces.entries()) {
    await peer.send(piece);
    const isShown = (): boolean => server.printed(mark).includes(piece.split(" ")[0]!);
    if (i < pieces.length - 1) await server.until(isShown, STOP_MS);
  }
  const isPrinted = (): boolean => server.printed(mark).includes(text);
  const isBytes = (): boolean => /\bb['"]/.test(server.printed(mark));
  if (peer instanceof TcpPeer && !await server.until(isPrinted, STOP_MS)) {
    await peer.closeWrite(); // it may print when it has all
  }
  const sent = pieces.map(show).join(", ");
  if (await server.until(isPrinted, ECHO_MS) && !isBytes()) return { sent, came: "printed" };
  const output = server.printed(mark);
  throw new Failed(sent, `printed: ${show(output)}`, unprinted(output, pieces));
}

/** Why a sentence is not in the output. */
function unprinted(output: string, pieces: string[]): Mistake {
  if (/\bb['"]/.test(output)) return "printsBytes";
  if (!output.includes(pieces[0]!.split(" ")[0]!)) return "printsNothing";
  return pieces.length > 1 ? "printsPart" : "printsOther";
}

/** The end of input makes most servers close: then nothing can come any more. */
async function sendsNothingBack(server: Server): Promise<Outcome> {
  const sent = `Hello ${randomWord()}\n`;
  await using peer = await server.connect();
  await peer.send(sent);
  const isDecided = (): boolean => peer.hasMore || peer.ended !== "";
  if (peer instanceof TcpPeer && !await server.until(isDecided, SILENCE_MS)) {
    await peer.closeWrite();
  }
  await server.until(isDecided, STOP_MS);
  if (!peer.hasMore) return { sent: show(sent), came: "nothing" };
  throw new Failed(show(sent), peer.describe(peer.rest()), "answersInTask1");
}

/** Task 2: "the server echoes back whatever it listens from the client". */
async function echoesSentence(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  const outcome = await exchange(peer, `Hello ${randomWord()}\n`);
  if (peer instanceof UdpPeer) return outcome; // a second datagram has a check of its own
  await server.until(() => peer.hasMore || peer.ended !== "", SILENCE_MS);
  if (!peer.hasMore) return outcome;
  throw new Failed(outcome.sent, `the same, then ${peer.describe(peer.rest())}`, "addsToEcho");
}

async function echoesOtherLetters(server: Server): Promise<Outcome> {
  return await echoes(server, `${randomWord()} grüßt 你好\n`, "decodesAscii");
}

async function echoesEmptyLine(server: Server): Promise<Outcome> {
  return await echoes(server, "\n", "emptyLineEnds");
}

async function echoesTwoInOne(server: Server): Promise<Outcome> {
  return await echoes(server, `Hello ${randomWord()}\nand ${randomWord()}\n`, "oneLineARead");
}

async function echoesWithoutLineEnd(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  const outcome = await exchange(peer, `Hello ${randomWord()}`, "waitsForLine");
  await peer.send("\n"); // it is no check of a client that leaves in mid-sentence
  await server.until(() => peer.hasMore || peer.ended !== "", SILENCE_MS);
  return outcome;
}

async function echoesCrlf(server: Server): Promise<Outcome> {
  return await echoes(server, `Hello ${randomWord()}\r\n`, "changesLineEnds");
}

async function echoesAllBytes(server: Server): Promise<Outcome> {
  const values = Array.from({ length: 256 }, (_, i) => i).filter((value) => value !== LF);
  const bytes = Uint8Array.from([...values, LF]); // one line
  return await echoes(server, bytes, "decodesBytes");
}

/** As a peer of its own, sends `data` and compares what comes back. */
async function echoes(server: Server, data: Data, usual?: Mistake): Promise<Outcome> {
  await using peer = await server.connect();
  return await exchange(peer, data, usual);
}

/** The second piece comes when the first has been dealt with: no read can bring both. */
async function echoesPieces(server: Server): Promise<Outcome> {
  const [first, second] = [`Hello ${randomWord()}`, ` and ${randomWord()}\n`];
  const sent = `${show(first)}, ${show(second)}`;
  await using peer = await server.connect();
  await peer.send(first);
  await server.until(() => peer.length >= first.length || peer.ended !== "", STOP_MS);
  await peer.send(second);
  const came = await peer.receive(first.length + second.length);
  if (came && isSame(came, encode(first + second))) return { sent, came: "the same" };
  throw new Failed(sent, peer.describe(came), "readsOnce");
}

async function seesEnd(server: Server): Promise<Outcome> {
  await using peer = await server.connect<TcpPeer>();
  const { sent } = await exchange(peer, `Hello ${randomWord()}\n`, "endedBefore");
  await peer.closeWrite();
  if (await server.until(() => peer.ended !== "", ECHO_MS)) {
    return { sent: `${sent}, a half-close`, came: "the same, then the end" };
  }
  throw new Failed(`${sent}, a half-close`, "the same, but no end", "ignoresEnd");
}

/** The end of input comes with the sentence: the echo is still to be sent then. */
async function echoesBeforeEnd(server: Server): Promise<Outcome> {
  await using peer = await server.connect<TcpPeer>();
  const sentence = `Hello ${randomWord()}\n`;
  const sent = `${show(sentence)} and a half-close`;
  await peer.send(sentence);
  await peer.closeWrite();
  await server.until(() => peer.ended !== "", ECHO_MS);
  const came = peer.rest();
  if (isSame(came, encode(sentence))) return { sent, came: "the same, then the end" };
  throw new Failed(sent, peer.describe(came), "cutsAtEnd");
}

async function servesNextClient(server: Server): Promise<Outcome> {
  await echoes(server, `Hello ${randomWord()}\n`);
  const outcome = await echoesNext(server, "oneClientEver");
  server.isSound = true;
  return outcome;
}

/** Another client of the very process that served the earlier ones. */
async function echoesNext(server: Server, usual: Mistake): Promise<Outcome> {
  const sentence = `Hello ${randomWord()}\n`;
  try {
    await using peer = await server.connect({ sameProcess: true });
    return await exchange(peer, sentence, usual);
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    throw new Failed(show(sentence), error.outcome.came, usual);
  }
}

/** Writes and reads at once, as it must: neither side can hold so much. */
async function echoesMebibyte(server: Server): Promise<Outcome> {
  const line = `${randomWord()} `.repeat(170).slice(0, 1_023) + "\n"; // a kibibyte
  const bytes = encode(line.repeat(LARGE_BYTES / line.length));
  const sent = "1,048,576 bytes, a half-close";
  await using peer = await server.connect<TcpPeer>();
  const sending = peer.send(bytes).then(() => peer.closeWrite());
  let length = -1;
  while (peer.ended === "" && length < peer.length) { // as long as something moves
    length = peer.length;
    await server.until(() => peer.ended !== "", ECHO_MS);
  }
  const came = peer.rest();
  if (isSame(came, bytes) && peer.ended !== "") {
    await sending;
    return { sent, came: "the same, then the end" };
  }
  throw new Failed(sent, peer.describe(came), "losesMuch");
}

/** Task 3: "data could be sent more than once from client to server". */
async function echoesMany(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  for (let i = 1; i <= 10; i++) await exchange(peer, `${i} ${randomWord()}\n`, "readsOnce");
  return { sent: "10 sentences in turn", came: "the same" };
}

/** Task 3: "the server only closes the connection upon receiving a specific command". */
async function closesAtStop(server: Server): Promise<Outcome> {
  const forms = [...server.stop.map((word) => `${word}\n`), ...server.stop];
  await using peer = await server.connect();
  await exchange(peer, `Hello ${randomWord()}\n`);
  for (const form of forms) {
    await peer.send(form);
    if (!await server.until(() => peer.ended !== "", STOP_MS)) continue;
    server.stopForm = form;
    server.isSound = false; // it may be about to end
    return { sent: show(form), came: "the end" };
  }
  throw new Failed(forms.map(show).join(", "), peer.describe(peer.rest()), "noStopWord");
}

/** No sentence that merely contains the word ends a conversation (over UDP, the server). */
async function echoesWordInside(server: Server): Promise<Outcome> {
  const end = server.stopForm.endsWith("\n") ? "\n" : "";
  const word = server.stopForm.trim();
  const sentences = [`do not ${word} yet`, `${word} not`, `un${word}`].map((text) => text + end);
  await using peer = await server.connect();
  for (const sentence of sentences) await exchange(peer, sentence, "findsStopInside");
  await exchange(peer, `Hello ${randomWord()}${end}`, "findsStopInside");
  return { sent: sentences.map(show).join(", "), came: "the same" };
}

async function echoesStopWord(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  const form = server.stopForm;
  await peer.send(form);
  await server.until(() => peer.ended !== "", ECHO_MS);
  const came = peer.rest();
  if (came && isSame(came, encode(form)) && peer.ended !== "") {
    return { sent: show(form), came: "the same, then the end" };
  }
  throw new Failed(show(form), peer.describe(came), "stopNotEchoed");
}

async function closesAtStopCrlf(server: Server): Promise<Outcome> {
  const form = `${server.stopForm.trim()}\r\n`;
  await using peer = await server.connect();
  await peer.send(form);
  if (await server.until(() => peer.ended !== "", ECHO_MS)) {
    return { sent: show(form), came: "the end" };
  }
  throw new Failed(show(form), peer.describe(peer.rest()), "comparesLineEnd");
}

async function servesAfterStop(server: Server): Promise<Outcome> {
  const forms = server.isTcp ? [server.stopForm] : server.stop;
  for (const form of forms) {
    await using peer = await server.connect();
    await exchange(peer, `Hello ${randomWord()}\n`);
    await peer.send(form);
    const isOver = (): boolean => peer.ended !== "" || (!server.isTcp && peer.hasMore);
    await server.until(isOver, server.isTcp ? ECHO_MS : SILENCE_MS);
    await echoesNext(server, "stopEndsServer");
  }
  server.isSound = true;
  return { sent: `${forms.map(show).join(", ")}, another client`, came: "the same" };
}

async function servesBesideSilent(server: Server): Promise<Outcome> {
  await using _silent = await server.connect();
  return await echoesNext(server, "oneAtATime");
}

async function servesFive(server: Server): Promise<Outcome> {
  await using clients = new AsyncDisposableStack();
  const peers: Peer[] = [];
  for (let i = 0; i < 5; i++) peers.push(clients.use(await server.connect()));
  for (let round = 0; round < 2; round++) {
    const talks = peers.map((peer, i) => exchange(peer, `${i} ${randomWord()}\n`, "mixesClients"));
    await Promise.all(talks.map((talk) => talk.catch(() => {}))); // all end before one is thrown
    await Promise.all(talks);
  }
  return { sent: "2 sentences each, at once", came: "the same" };
}

async function servesAfterReset(server: Server): Promise<Outcome> {
  await server.connectAndReset(`Hello ${randomWord()}\n`);
  return await echoesNext(server, "diesOfReset");
}

async function servesAfterLeaver(server: Server): Promise<Outcome> {
  {
    await using peer = await server.connect<TcpPeer>();
    const start = `Hello ${randomWord()}`;
    await peer.send(start);
    await server.until(() => peer.length >= start.length || peer.ended !== "", STOP_MS);
  }
  return await echoesNext(server, "diesOfLeaver");
}

// ---- Checks of a UDP server that a TCP server has not ----

/** One datagram in, one out: five in turn, then no more. */
async function echoesOneForOne(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  const sentences = Array.from({ length: 5 }, (_, i) => `${i + 1} ${randomWord()}`);
  for (const [i, sentence] of sentences.entries()) {
    await peer.send(sentence);
    const came = await peer.receive(sentence.length);
    if (came && isSame(came, encode(sentence))) continue;
    const isOld = came !== undefined && sentences.slice(0, i).includes(decode(came));
    throw new Failed(show(sentence), peer.describe(came), isOld ? "repliesTwice" : "readsOnce");
  }
  await server.until(() => peer.hasMore, SILENCE_MS);
  if (peer.hasMore) throw new Failed("5 datagrams", peer.describe(peer.rest()), "repliesTwice");
  return { sent: "5 datagrams in turn", came: "5, the same" };
}

/** A check that echoes one datagram of so many bytes. */
function echoesDatagram(length: number): (server: Server) => Promise<Outcome> {
  return async (server) => {
    const text = `${randomWord()} `.repeat(Math.ceil(length / 7)).slice(0, length);
    return await echoes(server, text, "cutsDatagram");
  };
}

async function echoesEmptyDatagram(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  const outcome = await exchange(peer, "", "emptyDatagram");
  await exchange(peer, `Hello ${randomWord()}`, "emptyDatagram");
  return outcome;
}

async function echoesNoText(server: Server): Promise<Outcome> {
  await using peer = await server.connect();
  const outcome = await exchange(peer, Uint8Array.from([0xff, 0xfe, 0x80, 0xc3]), "decodesBytes");
  await exchange(peer, `Hello ${randomWord()}`, "decodesBytes");
  return outcome;
}

async function servesTwoPeers(server: Server): Promise<Outcome> {
  await using one = await server.connect();
  await using two = await server.connect();
  for (const peer of [one, two, two, one]) {
    await exchange(peer, `Hello ${randomWord()}`, "onePeer");
  }
  server.isSound = true;
  return { sent: "2 datagrams each", came: "the same, to each its own" };
}

// ---- Checks of a client ----

/** Task 1: "The client process requires input from the user, and then sends it to the server." */
async function sendsTyped(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const sentence = `Hello ${randomWord()}`;
  await stage.type(sentence);
  const message = await stage.hear(sentence);
  if (client.echoes) await message.reply();
  await stage.until(() => stage.hasMore, SILENCE_MS);
  if (!stage.hasMore) return { sent: typed(sentence), came: show(message.bytes) };
  const came = `${show(message.bytes)}, then ${show(stage.rest())}`;
  throw new Failed(typed(sentence), came, "sendsTwice");
}

async function sendsOtherLetters(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const sentence = `${randomWord()} grüßt 你好`;
  await stage.type(sentence);
  const message = await stage.hear(sentence, { unheard: "changesSentence" });
  return { sent: typed(sentence), came: show(message.bytes) };
}

/** Task 2: what the server echoes is to be seen. */
async function printsEcho(client: Client): Promise<Outcome> {
  await using stage = client.play();
  return await converse(stage, `Hello ${randomWord()}`);
}

/** Types a sentence, echoes it when it comes, and waits until its last word is printed. */
async function converse(
  stage: Stage,
  sentence: string,
  usual: { unheard?: Mistake; unseen?: Mistake } = {},
): Promise<Outcome> {
  const { unheard = "sendsNothing", unseen = "showsNoEcho" } = usual;
  await stage.type(sentence);
  const message = await stage.hear(sentence, { unheard });
  await message.reply();
  const sent = typed(sentence);
  await stage.expectPrinted(sentence.split(" ").at(-1)!, { sent, usual: unseen });
  return { sent: typed(sentence), came: "sent, its echo printed" };
}

/** The server answers with other words, so that a client that prints its own input is found. */
async function printsAnswer(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const { program } = stage;
  const [word, other] = [randomWord(), randomWord()];
  const sent = `${typed(`Hello ${word}`)}, answered: ${show(`Hello ${other}`)}`;
  await stage.type(`Hello ${word}`);
  const message = await stage.hear(`Hello ${word}`);
  await message.reply(message.text.replace(word, other));
  const isShown = (): boolean => program.output.includes(other);
  const isRefused = (): boolean => stage.hasRepeat || (program.exitCode ?? 0) !== 0; // it compares
  await stage.until(() => isShown() || isRefused(), ECHO_MS);
  if (isShown()) return { sent, came: `${show(other)} printed` };
  if (isRefused()) return { sent, came: "refused, as it is no echo" };
  if (!program.output.includes(word)) return { sent, came: "not printed, as it is no echo" };
  throw new Failed(sent, `printed: ${show(program.output)}`, "showsInput");
}

/** Task 3: "data could be sent more than once from client to server". */
async function sendsMany(client: Client): Promise<Outcome> {
  await using stage = client.play();
  for (let i = 1; i <= 5; i++) {
    await converse(stage, `${i} ${randomWord()}`, { unheard: "oneSentence" });
  }
  return { sent: "typed 5 sentences in turn", came: "sent, their echoes printed" };
}

/** A client that reads and writes at once sends both before an echo: both come back in one piece. */
async function sendsTwoAtOnce(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const [first, second] = [`1 ${randomWord()}`, `2 ${randomWord()}`];
  const sent = `${typed(`${first}\n${second}`)}, at once`;
  await stage.type(`${first}\n${second}`);
  const message = await stage.hear(first, { then: second });
  await message.reply();
  if (!message.text.includes(second)) {
    await (await stage.hear(second, { unheard: "losesSecond" })).reply();
  }
  for (const sentence of [first, second]) {
    await stage.expectPrinted(sentence.split(" ")[1]!, { sent, usual: "losesSecond" });
  }
  return { sent, came: "both echoes printed" };
}

/** An empty sentence may be sent as a line end, as an empty datagram, or not at all. */
async function sendsEmpty(client: Client): Promise<Outcome> {
  await using stage = client.play();
  await converse(stage, `Hello ${randomWord()}`);
  const sentence = `Hello ${randomWord()}`;
  const sent = `${typed("")}, ${typed(sentence)}`;
  await stage.type("");
  await stage.type(sentence);
  const { program } = stage;
  if (!await stage.until(() => stage.hasMore || program.hasEnded, ECHO_MS)) {
    throw new Failed(sent, NOTHING, "hangsOnEmpty");
  }
  if (program.exitCode === 0 && !stage.hasMore) return { sent, came: "the client's end" };
  await stage.replyToBlanks();
  const message = await stage.hear(sentence, { unheard: "hangsOnEmpty" });
  await message.reply();
  await stage.expectPrinted(sentence.split(" ")[1]!, { sent, usual: "hangsOnEmpty" });
  return { sent, came: "its echo printed" };
}

/** Task 3 at the client: it has nothing more to do when the server has closed. */
async function endsAtStop(client: Client): Promise<Outcome> {
  let failure: unknown;
  for (const word of client.stop) {
    try {
      await using stage = client.play();
      await converse(stage, `Hello ${randomWord()}`);
      await stage.type(word);
      await (await stage.hearOrEnd(word))?.reply();
      await stage.hangUp();
      await stage.expectEnd(typed(word), "staysAfterStop");
      return { sent: typed(word), came: "the client's end" };
    } catch (error) {
      failure = error; // perhaps it knows another word
    }
  }
  throw failure;
}

async function endsAtEndOfInput(client: Client): Promise<Outcome> {
  await using stage = client.play();
  await converse(stage, `Hello ${randomWord()}`);
  await stage.program.endInput();
  await stage.until(() => stage.isHalfClosed || stage.program.hasEnded, ENDS_MS);
  if (stage.isHalfClosed) { // it drains its echoes, and ends with the server's end
    await stage.replyToAll();
    await stage.hangUp();
  }
  await stage.expectEnd("the end of input", "staysAtEnd");
  return { sent: "the end of input", came: "the client's end" };
}

// ---- Checks of a TCP client only ----

async function reportsRefusal(client: Client): Promise<Outcome> {
  await using deadPort = await holdDeadPort();
  await using stage = client.play({ deadPort: deadPort.port });
  const sent = "a port where nobody listens";
  await stage.type(`Hello ${randomWord()}`);
  const hasEnded = (): boolean => stage.program.hasEnded;
  if (!await stage.until(hasEnded, ENDS_MS)) await stage.program.endInput(); // if it asks again
  await stage.expectEnd(sent, "ignoresRefusal");
  return stage.expectWord(sent, 0);
}

/** The pieces are told apart by time: the second leaves when the first is printed, or a while later. */
async function printsPiecesOfEcho(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const [first, second] = [randomWord(), randomWord()];
  const sentence = `${first} ${second}`;
  const sent = `${typed(sentence)}, its echo in two pieces`;
  await stage.type(sentence);
  const message = await stage.hear(sentence);
  await message.reply(message.text.slice(0, first.length));
  await stage.until(() => stage.program.output.includes(first), STOP_MS);
  await message.reply(message.text.slice(first.length));
  await stage.expectPrinted(second, { sent, usual: "readsEchoOnce" });
  return { sent, came: "both printed" };
}

async function reportsServerEnd(client: Client): Promise<Outcome> {
  await using stage = client.play();
  await converse(stage, `Hello ${randomWord()}`);
  await stage.hangUp();
  const sentence = `Still there ${randomWord()}`;
  const mark = stage.program.mark();
  await stage.type(sentence);
  const sent = `the server's end, ${typed(sentence)}`;
  await stage.expectEnd(sent, "ignoresServerEnd");
  return stage.expectWord(sent, mark);
}

// ---- Checks of a UDP client only ----

async function printsLongEcho(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const words = `${randomWord()} `.repeat(200).slice(0, 1_394);
  const sentence = `${words.slice(0, -1)} ${randomWord()}`;
  await converse(stage, sentence, { unseen: "cutsDatagram" });
  return { sent: "typed 1,400 bytes", came: "sent, their echo printed" };
}

/** The first datagram gets no answer: it, or its echo, was lost. */
async function noticesLoss(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const { program } = stage;
  const sentence = `Hello ${randomWord()}`;
  const sent = `${typed(sentence)}, no answer to the first`;
  await stage.type(sentence);
  await stage.hear(sentence);
  await stage.until(() => stage.hasRepeat, SILENCE_MS);
  const mark = program.mark(); // what it prints when it sends is behind us
  const hasNoticed = (): boolean =>
    stage.hasRepeat || program.hasEnded || hasWords(program.since(mark));
  await stage.until(hasNoticed, LOST_MS);
  if (stage.hasRepeat) {
    await stage.replyToAll();
    await stage.expectPrinted(sentence.split(" ")[1]!, { sent, usual: "noTimeout" });
    return { sent, came: "sent again, its echo printed" };
  }
  if (hasNoticed()) return { sent, came: show(program.since(mark)) };
  throw new Failed(sent, `nothing in ${LOST_MS / 1000} s`, "noTimeout");
}

async function ignoresStranger(client: Client): Promise<Outcome> {
  await using stage = client.playUdp();
  const [word, lie] = [randomWord(), randomWord()];
  const sent = `${typed(`Hello ${word}`)}, ${show(`Hello ${lie}`)} from another port first`;
  await stage.type(`Hello ${word}`);
  const message = await stage.hear(`Hello ${word}`);
  await stage.replyAsStranger(message.text.replace(word, lie)); // it arrives first
  await message.reply();
  await stage.expectPrinted(word, { sent, usual: "believesStranger" });
  const output = stage.program.stdout; // a warning on stderr may quote it
  if (!output.includes(lie)) return { sent, came: "the echo printed" };
  throw new Failed(sent, `printed: ${show(output)}`, "believesStranger");
}

async function ignoresDuplicate(client: Client): Promise<Outcome> {
  await using stage = client.play();
  const [first, second] = [`1 ${randomWord()}`, `2 ${randomWord()}`];
  const sent = `${typed(first)}, echoed twice, ${typed(second)}`;
  await stage.type(first);
  const message = await stage.hear(first);
  await message.reply();
  await message.reply();
  await stage.expectPrinted(first.split(" ")[1]!, { sent, usual: "showsNoEcho" });
  await stage.type(second);
  await (await stage.hear(second)).reply();
  await stage.expectPrinted(second.split(" ")[1]!, { sent, usual: "believesDuplicate" });
  return { sent, came: "both echoes printed" };
}

// ---- A check's waits ----

/** What a check waits for, and what has to be closed if it takes too long. */
class Round {
  readonly #wakes = new Set<() => void>();
  readonly #closables = new Set<{ close(): void }>();
  /** It was cut. */
  isOver = false;

  /** Something has changed. */
  notify(): void {
    for (const wake of this.#wakes) wake();
  }

  /** Waits until `isDone`, for `ms` at most; tells whether it is. */
  async until(isDone: () => boolean, ms: number): Promise<boolean> {
    const deadline = performance.now() + ms;
    while (!isDone()) {
      const left = deadline - performance.now();
      if (left > 0 && !this.isOver) {
        await this.#change(left);
      } else {
        await new Promise((resolve) => setTimeout(resolve)); // sockets are read before a verdict
        return isDone();
      }
    }
    return true;
  }

  async #change(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#wakes.add(resolve);
    await promise;
    clearTimeout(timer);
    this.#wakes.delete(resolve);
  }

  /** To be closed at {@linkcode end}. */
  add(closable: { close(): void }): void {
    this.#closables.add(closable);
  }

  /** Ends all waits, those of sockets too. */
  end(): void {
    this.isOver = true;
    for (const closable of this.#closables) closable.close();
    this.notify();
  }
}

// ---- Programs ----

/** Programs that run: a signal to the grader ends them, too. */
const running = new Set<Program>();

/** A command in a process group of its own, its keyboard, and what it prints. */
class Program implements AsyncDisposable {
  exitCode: number | undefined;
  /** Its status and all that it printed are here. */
  hasEnded = false;
  /** What it printed on stdout, and on both. */
  stdout = "";
  output = "";
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #pumps: Promise<unknown>;
  readonly #ended: Promise<void>;
  readonly #onChange: () => void;

  /** @throws Error if it cannot be run */
  constructor(command: string[], port: number, onChange: () => void) {
    const [name, ...args] = command.map((part) => part.replaceAll("{port}", `${port}`));
    this.#child = spawn(name!, args);
    running.add(this);
    this.#onChange = onChange;
    this.#stdin = this.#child.stdin.getWriter();
    this.#stdin.closed.catch(() => {}); // it ended first
    const { stdout, stderr } = this.#child;
    this.#pumps = Promise.all([this.#pump(stdout, true), this.#pump(stderr, false)]);
    this.#ended = this.#waitForEnd();
  }

  async #pump(stream: ReadableStream<Uint8Array<ArrayBuffer>>, isStdout: boolean): Promise<void> {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      this.output += text;
      if (isStdout) this.stdout += text;
      this.#onChange();
      if (this.output.length > MAX_READ) await this.#child.status; // it waits for a reader, in vain
    }
  }

  async #waitForEnd(): Promise<void> {
    const { code } = await this.#child.status;
    this.exitCode = code;
    running.delete(this);
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, SILENCE_MS); // a child of its own may hold the pipes
    await Promise.race([this.#pumps, late.promise]);
    clearTimeout(timer);
    this.hasEnded = true;
    this.#onChange();
  }

  /** Here and now, for {@linkcode since}. */
  mark(): number {
    return this.output.length;
  }

  /** What it has printed since. */
  since(mark: number): string {
    return this.output.slice(mark);
  }

  /** Types a line. */
  async type(line: string): Promise<void> {
    await this.#stdin.write(encode(`${line}\n`)).catch(() => {}); // it has ended
  }

  /** Ctrl-D. */
  async endInput(): Promise<void> {
    await this.#stdin.close().catch(() => {});
  }

  /** How it ended, and the last that it said. */
  describeEnd(): string {
    const words = this.output.trimEnd().split("\n").at(-1)!.trim();
    return `it ended with code ${this.exitCode}${words && `: ${show(words)}`}`;
  }

  /** Ends it and its children. */
  kill(): void {
    for (const pid of [-this.#child.pid, this.#child.pid]) { // the group, where there is one
      try {
        Deno.kill(pid, "SIGKILL");
      } catch {
        // It has ended.
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.endInput();
    await Promise.all([this.#ended, this.#pumps]);
  }
}

/** Python's output is to be seen at once, and its letters to be UTF-8 on every system. */
const ENV = { PYTHONUNBUFFERED: "1", PYTHONUTF8: "1", NO_COLOR: "1" };

function spawn(name: string, args: string[]): Deno.ChildProcess {
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const detached = true; // a process group of its own, to end its children with it
  try {
    return new Deno.Command(name, { args, ...piped, detached, env: ENV }).spawn();
  } catch (cause) {
    const reason = cause instanceof Deno.errors.NotFound ? "not found" : (cause as Error).message;
    throw new UsageError(`cannot run "${name}": ${reason}`, { cause });
  }
}

// ---- Peers of a server ----

type Data = string | Uint8Array<ArrayBuffer>;

/** The other end of what is graded: a TCP connection, or a UDP socket. */
interface Peer extends AsyncDisposable {
  /** How a TCP connection ended. */
  readonly ended: "" | "eof" | "reset";
  /** Bytes that came in all. */
  readonly length: number;
  /** Something came that was not taken. */
  readonly hasMore: boolean;
  send(data: Data): Promise<void>;
  /** The next `length` bytes, or the next datagram; what there is by then, if it takes too long. */
  receive(length: number): Promise<Uint8Array | undefined>;
  /** All that was not taken. */
  rest(): Uint8Array | undefined;
  /** What came, in words. */
  describe(came: Uint8Array | undefined): string;
}

/** A TCP connection that is read all the time, so that neither side waits for the other. */
class TcpPeer implements Peer {
  ended: "" | "eof" | "reset" = "";
  length = 0;
  readonly #conn: Deno.TcpConn;
  readonly #round: Round;
  readonly #pumping: Promise<void>;
  #chunks: Uint8Array[] = [];
  #taken = 0;
  #isClosed = false;

  constructor(conn: Deno.TcpConn, round: Round) {
    this.#conn = conn;
    this.#round = round;
    conn.setNoDelay();
    round.add(this);
    this.#pumping = this.#pump();
  }

  async #pump(): Promise<void> {
    const buffer = new Uint8Array(65_536);
    try {
      for (let size; (size = await this.#conn.read(buffer)) !== null;) {
        this.#chunks.push(buffer.slice(0, size));
        this.length += size;
        this.#round.notify();
        if (this.length > MAX_READ) return; // TCP's flow control stops it
      }
      this.ended = "eof";
    } catch {
      this.ended = "reset";
    }
    this.#round.notify();
  }

  get hasMore(): boolean {
    return this.length > this.#taken;
  }

  async send(data: Data): Promise<void> {
    try {
      for (let rest = toBytes(data); rest.length > 0;) {
        rest = rest.subarray(await this.#conn.write(rest));
      }
    } catch {
      // The other end is gone: it is reading that tells how.
    }
  }

  async closeWrite(): Promise<void> {
    await this.#conn.closeWrite().catch(() => {}); // it is gone
  }

  async receive(length: number): Promise<Uint8Array> {
    const isDone = (): boolean => this.length >= this.#taken + length || this.ended !== "";
    await this.#round.until(isDone, ECHO_MS);
    return this.#take(length);
  }

  rest(): Uint8Array {
    return this.#take(this.length);
  }

  /** All that was not taken, which stays. */
  peek(): Uint8Array {
    this.#chunks = [concat(this.#chunks)];
    return this.#chunks[0]!.subarray(this.#taken);
  }

  #take(length: number): Uint8Array {
    const bytes = this.peek().slice(0, length);
    this.#taken += bytes.length;
    return bytes;
  }

  describe(came: Uint8Array): string {
    const end = { "": "", eof: "the end", reset: "a reset" }[this.ended];
    return [came.length > 0 ? show(came) : "", end].filter(Boolean).join(", then ") || NOTHING;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#conn.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#pumping;
  }
}

/** A datagram, and where it came from. */
type Datagram = { bytes: Uint8Array<ArrayBuffer>; from: Deno.NetAddr };

/** A UDP socket that is read all the time. */
class UdpSocket {
  readonly addr: Deno.NetAddr;
  readonly datagrams: Datagram[] = [];
  length = 0;
  readonly #socket: Deno.DatagramConn;
  readonly #round: Round;
  readonly #pumping: Promise<void>;
  #isClosed = false;

  constructor(address: { hostname: string; port: number }, round: Round) {
    this.#socket = Deno.listenDatagram({ transport: "udp", ...address });
    this.addr = this.#socket.addr as Deno.NetAddr;
    this.#round = round;
    round.add(this);
    this.#pumping = this.#pump();
  }

  async #pump(): Promise<void> {
    const buffer = new Uint8Array(65_535);
    while (!this.#isClosed && this.length < MAX_READ) {
      try {
        const [bytes, from] = await this.#socket.receive(buffer);
        this.length += bytes.length;
        this.datagrams.push({ bytes: bytes.slice(), from: from as Deno.NetAddr });
      } catch {
        // It is closed, or (on Windows) an earlier datagram was refused.
      }
      this.#round.notify();
    }
  }

  /** @throws Skipped where the system sends no datagram of that size */
  async send(bytes: Uint8Array, to: { hostname: string; port: number }): Promise<void> {
    try {
      await this.#socket.send(bytes, { transport: "udp", ...to });
    } catch (error) {
      if (this.#isClosed) return; // the check is cut
      if ((error as { code?: string }).code !== "EMSGSIZE") throw error;
      throw new Skipped("this system sends no datagram of that size");
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#pumping;
  }
}

/** A UDP socket that talks to one server. */
class UdpPeer implements Peer {
  readonly ended = "";
  readonly #socket: UdpSocket;
  readonly #server: Server;
  #taken = 0;

  constructor(socket: UdpSocket, server: Server) {
    this.#socket = socket;
    this.#server = server;
  }

  get length(): number {
    return this.#socket.length;
  }

  get hasMore(): boolean {
    return this.#replies.length > this.#taken;
  }

  /** Something came, but from another port than the server's. */
  get hasStray(): boolean {
    return this.#socket.datagrams.length > this.#replies.length;
  }

  get #replies(): Datagram[] {
    return this.#socket.datagrams.filter(({ from }) => from.port === this.#server.address.port);
  }

  async send(data: Data): Promise<void> {
    await this.#socket.send(toBytes(data), this.#server.address);
  }

  async receive(): Promise<Uint8Array | undefined> {
    const isDone = (): boolean => this.hasMore || this.hasStray || this.#server.hasDied;
    await this.#server.until(isDone, ECHO_MS);
    return this.rest();
  }

  rest(): Uint8Array | undefined {
    return this.hasMore ? this.#replies[this.#taken++]!.bytes : undefined;
  }

  describe(came: Uint8Array | undefined): string {
    if (came) return show(came);
    return this.hasStray ? "nothing but a datagram from another port" : NOTHING;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }
}

/** Sends `data` and compares what comes back. @throws Failed with `usual`, if it is not the same */
async function exchange(peer: Peer, data: Data, usual?: Mistake): Promise<Outcome> {
  const bytes = toBytes(data);
  await peer.send(bytes);
  const came = await peer.receive(bytes.length);
  if (came && isSame(came, bytes)) return { sent: show(bytes), came: "the same" };
  const all = peer instanceof TcpPeer ? concat([came!, peer.rest()]) : came;
  throw new Failed(show(bytes), peer.describe(all), usual ?? differs(peer, bytes, all));
}

/** What is usually wrong where an echo differs from what was sent. */
function differs(peer: Peer, sent: Uint8Array, came?: Uint8Array): Mistake {
  if (peer instanceof UdpPeer && !came) return peer.hasStray ? "otherSocket" : "noReply";
  if (!came || came.length === 0) return peer.ended ? "closesUnanswered" : "noEcho";
  const [wanted, got] = [decode(sent), decode(came)];
  if (/\bb['"]/.test(got)) return "sendsBytesAsText";
  if (got === wanted.trimEnd()) return "cutsLineEnd";
  if (wanted.startsWith(got)) return "cutsEcho";
  return got.includes(wanted.trimEnd()) ? "addsToEcho" : "changesEcho";
}

// ---- What is graded ----

/** A server, by its address or as a command that is started anew where an earlier check left doubt. */
class Server {
  readonly isTcp: boolean;
  readonly stop: string[];
  address: { hostname: string; port: number };
  /** The form of the stop word that closes, line end included. */
  stopForm: string;
  /** It was seen to serve a client after another: the same process may serve the next check. */
  isSound = false;
  /** Why no further check makes sense. */
  lost = "";
  readonly #options: GradeOptions;
  #round = new Round();
  #program: Program | undefined;
  #isNew = true;
  #isBound = true;
  #refusal = ""; // of the last connection

  constructor(options: GradeOptions) {
    this.#options = options;
    this.isTcp = options.kind === "tcp-server";
    this.address = options.address ?? { hostname: "127.0.0.1", port: 0 };
    this.stop = options.stop ?? ["stop", "exit"];
    this.stopForm = this.stop[0]!;
  }

  /** A command that does not run any more. */
  get hasDied(): boolean {
    return this.#program?.hasEnded ?? false;
  }

  until(isDone: () => boolean, ms: number): Promise<boolean> {
    return this.#round.until(isDone, ms);
  }

  mark(): number {
    return this.#program!.mark();
  }

  /** What it has printed since. */
  printed(mark: number): string {
    return this.#program!.since(mark);
  }

  /** A new client. `sameProcess`: of the process that served the earlier ones, dead or alive. */
  async connect<P extends Peer = Peer>({ sameProcess = false } = {}): Promise<P> {
    if (!sameProcess && this.#options.command && (!this.#program || this.hasDied)) {
      await this.#start();
    }
    const peer = this.isTcp ? await this.#connectTcp(sameProcess) : this.#openUdp();
    return peer as Peer as P;
  }

  async #start(): Promise<void> {
    for (let tries = 2; tries > 0; tries--) { // another may take the port in between
      await this.#program?.[Symbol.asyncDispose]();
      const port = this.#options.port ?? freePort(this.isTcp);
      this.address = { hostname: "127.0.0.1", port };
      this.#program = new Program(this.#options.command!, port, () => this.#round.notify());
      this.#isNew = true;
      if (this.isTcp) return; // the first connection tells when it listens
      const deadline = performance.now() + START_MS;
      while (performance.now() < deadline && !this.#round.isOver && !this.hasDied) {
        this.#isBound = isUdpPortTaken(port);
        if (this.#isBound) return;
        await this.until(() => this.hasDied, RETRY_MS);
      }
      if (!this.hasDied) return;
    }
  }

  async #connectTcp(sameProcess: boolean): Promise<TcpPeer> {
    const { command } = this.#options;
    let mayRestart = command !== undefined && !sameProcess;
    let deadline = performance.now() + START_MS;
    while (!this.#round.isOver) {
      const peer = await this.#tryConnect();
      if (peer) return peer;
      if (command && this.#isNew && !this.hasDied && performance.now() < deadline) {
        await this.until(() => this.hasDied, RETRY_MS);
      } else if (mayRestart && (this.hasDied || !this.#isNew)) {
        mayRestart = false;
        await this.#start();
        deadline = performance.now() + START_MS;
      } else {
        break;
      }
    }
    throw new Failed("a connection", this.#refusal, this.#isNew ? "unreachable" : "endedBefore");
  }

  async #tryConnect(): Promise<TcpPeer | undefined> {
    try {
      const conn = await Deno.connect({ ...this.address, signal: AbortSignal.timeout(ECHO_MS) });
      if (conn.localAddr.port === conn.remoteAddr.port) { // a dead port can connect to itself
        conn.close();
        return undefined;
      }
      this.#isNew = false;
      return new TcpPeer(conn, this.#round);
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
      this.#refusal = error instanceof Deno.errors.ConnectionRefused ? "refused" : `${error}`;
      return undefined; // not yet, or no longer
    }
  }

  #openUdp(): UdpPeer {
    return new UdpPeer(new UdpSocket(ownAddressFor(this.address.hostname), this.#round), this);
  }

  /** A client that is served once, and then resets its connection. */
  async connectAndReset(sentence: string): Promise<void> {
    (await this.connect())[Symbol.asyncDispose](); // it starts where it has to
    const { hostname: host, port } = this.address;
    const socket = connectSocket({ host, port });
    const isClosed = new Promise<void>((resolve) => socket.on("close", () => resolve()));
    let isServed = false;
    socket.on("error", () => {}); // "close" follows
    socket.on("connect", () => socket.write(sentence));
    socket.on("data", () => {
      isServed = true;
      this.#round.notify();
    });
    await this.until(() => isServed || socket.destroyed, ECHO_MS);
    socket.resetAndDestroy();
    await isClosed;
  }

  /** A check begins. */
  begin(): void {
    this.#round = new Round();
  }

  /** A check takes too long. */
  abort(): void {
    this.#round.end();
  }

  /** A check is over: the next one shall find a server that owes nothing to this one's. */
  async finish(mistake: Mistake | undefined): Promise<void> {
    const { command } = this.#options;
    const isGone = mistake === "unreachable" || (!command && mistake === "endedBefore");
    if (isGone || (mistake && !this.#isBound)) {
      this.lost = "nobody listens";
    } else if (command) {
      if (mistake || !this.isSound) await this[Symbol.asyncDispose]();
    } else if (mistake && !await this.#stillAnswers()) {
      this.lost = "the server answers no more";
    }
  }

  async #stillAnswers(): Promise<boolean> {
    this.begin();
    const data = `Hello ${randomWord()}\n`;
    return await echoes(this, data).then(() => true, () => false);
  }

  /** What a command that has ended said at last. */
  describeEnd(): string {
    return this.hasDied ? this.#program!.describeEnd() : "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program?.[Symbol.asyncDispose]();
    this.#program = undefined;
  }
}

/** Runs a client against servers that the grader plays. */
class Client {
  /** Whether the client expects echoes. */
  readonly echoes: boolean;
  readonly stop: string[];
  readonly lost = "";
  readonly #options: GradeOptions;
  readonly #round = new Round();

  constructor(options: GradeOptions) {
    this.#options = options;
    this.echoes = options.task !== 1;
    this.stop = options.stop ?? ["stop", "exit"];
  }

  /** Starts a server and the client; `deadPort`: no server, and the client is told that port. */
  play({ deadPort }: { deadPort?: number } = {}): Stage {
    if (this.#options.kind === "udp-client") return this.playUdp();
    return new TcpStage({ ...this.#options, deadPort }, this.#round);
  }

  playUdp(): UdpStage {
    return new UdpStage(this.#options, this.#round);
  }

  begin(): void {}

  abort(): void {
    this.#round.end();
  }

  async finish(): Promise<void> {}

  describeEnd(): string {
    return "";
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** What a client sent, and the way back. */
type Message = {
  bytes: Uint8Array;
  text: string;
  /** Sends `text`, by default the message itself. */
  reply(text?: string): Promise<void>;
};

/** A server that the grader plays, and the client that talks to it. */
abstract class Stage implements AsyncDisposable {
  abstract readonly program: Program;
  /** Something came that was not heard yet. */
  abstract readonly hasMore: boolean;
  /** A datagram came again. */
  abstract readonly hasRepeat: boolean;
  /** The client will send no more. */
  abstract readonly isHalfClosed: boolean;
  protected readonly round: Round;
  #hasHeard = false;

  constructor(round: Round) {
    this.round = round;
  }

  /** What was not heard yet. */
  abstract rest(): Uint8Array;
  /** Echoes what was not heard yet. */
  abstract replyToAll(): Promise<void>;
  /** Echoes empty sentences, if they come next. */
  abstract replyToBlanks(): Promise<void>;
  /** The server closes. */
  abstract hangUp(): Promise<void>;
  /** The next message, or what there is of it after `ms`. */
  protected abstract next(
    sentence: string,
    ms: number,
    then?: string,
  ): Promise<Message | undefined>;
  abstract [Symbol.asyncDispose](): Promise<void>;

  until(isDone: () => boolean, ms: number): Promise<boolean> {
    return this.round.until(isDone, ms);
  }

  async type(line: string): Promise<void> {
    await this.program.type(line);
  }

  /**
   * Waits for a sentence, with or without a line end; `then`: or for two that come at once.
   * @throws Failed if nothing comes (with `unheard`) or something else
   */
  async hear(
    sentence: string,
    { unheard = "sendsNothing", then }: { unheard?: Mistake; then?: string } = {},
  ): Promise<Message> {
    const ms = this.#hasHeard ? ECHO_MS : START_MS;
    const message = await this.next(sentence, ms, then);
    if (message && isSentence(message.text, sentence, then)) {
      this.#hasHeard = true;
      return message;
    }
    const sent = typed(sentence);
    if (message) throw new Failed(sent, show(message.bytes), differsFrom(sentence, message.text));
    const { hasEnded } = this.program;
    const came = hasEnded ? `nothing: ${this.program.describeEnd()}` : `nothing in ${ms / 1000} s`;
    throw new Failed(sent, came, hasEnded && unheard === "sendsNothing" ? "endsUnasked" : unheard);
  }

  /** Waits for a sentence, or for the client's end. */
  async hearOrEnd(sentence: string): Promise<Message | undefined> {
    return await this.next(sentence, ECHO_MS);
  }

  /** @throws Failed with `usual`, unless the client prints `word` */
  async expectPrinted(
    word: string,
    { sent, usual }: { sent: string; usual: Mistake },
  ): Promise<void> {
    const { program } = this;
    await this.until(() => program.output.includes(word) || program.hasEnded, ECHO_MS);
    if (program.output.includes(word)) return;
    const end = program.hasEnded ? `; ${program.describeEnd()}` : "";
    const mistake = program.hasEnded && usual === "showsNoEcho" ? "endsUnasked" : usual;
    throw new Failed(sent, `printed: ${show(program.output)}${end}`, mistake);
  }

  /** @throws Failed with `usual`, unless the client ends */
  async expectEnd(sent: string, usual: Mistake): Promise<void> {
    if (await this.until(() => this.program.hasEnded, ENDS_MS)) return;
    throw new Failed(sent, `no end in ${ENDS_MS / 1000} s`, usual);
  }

  /** @throws Failed unless it ended with a word since `mark`, or with an exit code that tells */
  expectWord(sent: string, mark: number): Outcome {
    const said = this.program.since(mark);
    if (this.program.exitCode === 0 && !hasWords(said)) {
      throw new Failed(sent, "its end, with code 0 and no word", "endsWithoutWord");
    }
    return { sent, came: this.program.describeEnd() };
  }
}

/** Whether `text` is the sentence (or both sentences) with or without line ends. */
function isSentence(text: string, sentence: string, then: string | undefined): boolean {
  const lines = text.replace(/^[\r\n]+|\r?\n$/g, "");
  return lines === sentence ||
    (then !== undefined && lines.replace(/\r?\n/, "") === sentence + then);
}

/** What is usually wrong where a client sends `text` in place of `sentence`. */
function differsFrom(sentence: string, text: string): Mistake {
  if (/\bb['"]/.test(text)) return "sendsBytesAsText";
  if (text.split(sentence).length > 2) return "sendsTwice";
  if (text.includes(sentence)) return "addsToSentence";
  return sentence.startsWith(text.trimEnd()) ? "sendsPart" : "changesSentence";
}

/** A TCP server for one client. */
class TcpStage extends Stage {
  readonly program: Program;
  readonly hasRepeat = false;
  readonly #listener: Deno.TcpListener;
  readonly #accepting: Promise<void>;
  readonly #peers: TcpPeer[] = [];
  #peer: TcpPeer | undefined; // that was heard

  constructor(options: GradeOptions & { deadPort?: number | undefined }, round: Round) {
    super(round);
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: options.port ?? 0 });
    if (options.deadPort !== undefined) this.#listener.close();
    this.#accepting = this.#accept();
    const port = options.port ?? options.deadPort ?? this.#listener.addr.port;
    this.program = new Program(options.command!, port, () => round.notify());
  }

  async #accept(): Promise<void> {
    try {
      while (true) this.#peers.push(new TcpPeer(await this.#listener.accept(), this.round));
    } catch {
      // It is closed.
    }
  }

  get hasMore(): boolean {
    return this.#peers.some((peer) => peer.hasMore);
  }

  get isHalfClosed(): boolean {
    return this.#peers.some((peer) => peer.ended !== "");
  }

  rest(): Uint8Array {
    return concat(this.#peers.map((peer) => peer.rest()));
  }

  async replyToAll(): Promise<void> {
    for (const peer of this.#peers) if (peer.hasMore) await peer.send(peer.rest().slice());
  }

  async replyToBlanks(): Promise<void> {
    if (this.#peers.every((peer) => decode(peer.peek()).trim() === "")) await this.replyToAll();
  }

  protected async next(
    sentence: string,
    ms: number,
    then?: string,
  ): Promise<Message | undefined> {
    const holds = (peer: TcpPeer, text: string): boolean => decode(peer.peek()).includes(text);
    const find = (): TcpPeer | undefined => this.#peers.find((peer) => holds(peer, sentence));
    await this.until(() => find() !== undefined || this.program.hasEnded, ms);
    if (!find()) await this.until(() => find() !== undefined, LINE_END_MS); // it sent, and ended
    const peer = find() ?? this.#peers.find((peer) => peer.hasMore);
    if (!peer) return undefined;
    if (then) await this.until(() => holds(peer, then), SILENCE_MS);
    await this.until(() => decode(peer.peek()).endsWith("\n"), LINE_END_MS);
    const bytes = peer.rest().slice();
    if (this.#peer && peer !== this.#peer) {
      throw new Failed(typed(sentence), `${show(bytes)} on another connection`, "reconnects");
    }
    this.#peer = peer;
    return { bytes, text: decode(bytes), reply: (text) => peer.send(text ?? bytes) };
  }

  async hangUp(): Promise<void> {
    this.#close();
    for (const peer of this.#peers) await peer.closeWrite();
  }

  #close(): void {
    try {
      this.#listener.close();
    } catch {
      // A second time.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
    await this.#accepting;
    for (const peer of this.#peers) await peer[Symbol.asyncDispose]();
    await this.program[Symbol.asyncDispose]();
  }
}

/** A UDP server for one client. */
class UdpStage extends Stage {
  readonly program: Program;
  readonly isHalfClosed = false;
  readonly #socket: UdpSocket;
  readonly #heard: string[] = [];
  #taken = 0;

  constructor(options: GradeOptions, round: Round) {
    super(round);
    this.#socket = new UdpSocket({ hostname: "127.0.0.1", port: options.port ?? 0 }, round);
    const { port } = this.#socket.addr;
    this.program = new Program(options.command!, port, () => round.notify());
  }

  get hasMore(): boolean {
    return this.#socket.datagrams.length > this.#taken;
  }

  get hasRepeat(): boolean {
    return this.hasMore;
  }

  rest(): Uint8Array {
    return concat(this.#socket.datagrams.slice(this.#taken).map(({ bytes }) => bytes));
  }

  async replyToAll(): Promise<void> {
    while (this.hasMore) await this.#replyToNext();
  }

  async replyToBlanks(): Promise<void> {
    while (this.hasMore && this.#nextText.trim() === "") await this.#replyToNext();
  }

  async #replyToNext(): Promise<void> {
    this.#heard.push(this.#nextText);
    const { bytes, from } = this.#socket.datagrams[this.#taken++]!;
    await this.#socket.send(bytes, from);
  }

  get #nextText(): string {
    return decode(this.#socket.datagrams[this.#taken]!.bytes);
  }

  protected async next(sentence: string, ms: number): Promise<Message | undefined> {
    await this.until(() => this.#skipRepeats(sentence) || this.program.hasEnded, ms);
    if (!this.#skipRepeats(sentence)) return undefined;
    const { bytes, from } = this.#socket.datagrams[this.#taken++]!;
    const text = decode(bytes);
    this.#heard.push(text);
    const send = async (reply?: string): Promise<void> =>
      await this.#socket.send(reply === undefined ? bytes : encode(reply), from);
    return { bytes, text, reply: send };
  }

  /** A message that was heard may come again: its echo took too long. Tells whether another came. */
  #skipRepeats(sentence: string): boolean {
    while (this.hasMore) {
      const text = this.#nextText;
      if (!this.#heard.includes(text) || text.trimEnd() === sentence) return true;
      this.#taken++;
    }
    return false;
  }

  /** To whoever sent last, from a port that was never asked. */
  async replyAsStranger(text: string): Promise<void> {
    await using stranger = new UdpSocket({ hostname: "127.0.0.1", port: 0 }, this.round);
    await stranger.send(encode(text), this.#socket.datagrams.at(-1)!.from);
  }

  async hangUp(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
    await this.program[Symbol.asyncDispose]();
  }
}

// ---- Grading ----

/** What a check is run on. */
type Subject = {
  /** Why no further check makes sense. */
  readonly lost: string;
  begin(): void;
  abort(): void;
  finish(mistake: Mistake | undefined): Promise<void>;
  describeEnd(): string;
};

/**
 * Grades a program, and ends what it started.
 * @throws UsageError if the command cannot be run, or the port not be had
 */
export async function grade(options: GradeOptions): Promise<Verdict[]> {
  const { kind } = options;
  if (kind.startsWith("udp") && !("listenDatagram" in Deno)) {
    throw new UsageError("UDP needs --unstable-net behind deno run, where no deno.json gives it");
  }
  if (kind === "tcp-client" || kind === "udp-client") {
    const checks = kind === "tcp-client" ? TCP_CLIENT_CHECKS : UDP_CLIENT_CHECKS;
    const atOnce = options.port === undefined ? CHECKS_AT_ONCE : 1;
    return await runChecks(checks, () => new Client(options), { ...options, atOnce });
  }
  await using server = new Server(options);
  const checks = kind === "tcp-server"
    ? (options.task === 1 ? TCP_PRINT_CHECKS : TCP_SERVER_CHECKS)
    : (options.task === 1 ? PRINT_CHECKS : UDP_SERVER_CHECKS);
  return await runChecks(checks, () => server, { ...options, atOnce: 1 });
}

/** Runs a table, `atOnce` checks at a time, and tells the verdicts in its order. */
async function runChecks<S extends Subject>(
  table: Check<S>[],
  subject: () => S,
  options: GradeOptions & { atOnce: number },
): Promise<Verdict[]> {
  const start = performance.now();
  const verdicts = new Map<string, Promise<Verdict>>();
  const lanes: Promise<unknown>[] = [];
  let failuresMs = 0;
  const checks = table.filter((check) => isAsked(check, options))
    .toSorted((a, b) => Number(a.step[0]) - Number(b.step[0]));
  for (const [i, check] of checks.entries()) {
    const lane = i % options.atOnce;
    const before = Promise.allSettled([lanes[lane]]);
    const tryIt = async (): Promise<Verdict> => {
      await before;
      for (const need of check.needs ?? []) {
        const needed = await verdicts.get(need);
        if (needed && !needed.ok) return untried(check, options, `"${need}" comes first`);
      }
      const began = performance.now();
      const isLate = failuresMs / options.atOnce > FAILURES_MS || began - start > TOTAL_MS;
      if (isLate) return untried(check, options, "out of time");
      const verdict = await runCheck(check, subject(), options);
      if (!verdict.ok) failuresMs += performance.now() - began;
      return verdict;
    };
    const verdict = tryIt();
    verdicts.set(check.name, lanes[lane] = verdict);
  }
  const results = [...verdicts.values()];
  try {
    for (const verdict of results) options.onVerdict?.(await verdict);
    return await Promise.all(results);
  } finally {
    await Promise.allSettled(results);
  }
}

/** Whether a check is about what a program is graded as. */
function isAsked<S>({ step, output }: Check<S>, { task = 3, address }: GradeOptions): boolean {
  return Number(step[0]) <= task && !(output && address);
}

async function runCheck<S extends Subject>(
  check: Check<S>,
  subject: S,
  options: GradeOptions,
): Promise<Verdict> {
  if (subject.lost) return untried(check, options, subject.lost);
  subject.begin();
  const timer = setTimeout(() => subject.abort(), CHECK_MS);
  let outcome: Outcome;
  try {
    outcome = await check.run(subject);
  } catch (error) {
    if (error instanceof Skipped) return untried(check, options, error.message);
    if (!(error instanceof Failed)) throw error;
    const { outcome: failure } = error;
    outcome = {
      ...failure,
      came: [failure.came, subject.describeEnd()].filter(Boolean).join("; "),
    };
  } finally {
    clearTimeout(timer);
  }
  const { sent, came, mistake } = outcome;
  await subject.finish(mistake);
  const text = mistake ? MISTAKES[mistake] : "";
  return { ...headOf(check, options), ok: !mistake, sent, came, mistake: text };
}

function untried<S>(check: Check<S>, options: GradeOptions, why: string): Verdict {
  return { ...headOf(check, options), ok: null, sent: "", came: `not tried: ${why}`, mistake: "" };
}

function headOf<S>(
  { step, name }: Check<S>,
  { kind }: GradeOptions,
): Pick<Verdict, "task" | "check" | "beyond"> {
  const task = kind.startsWith("udp") ? 4 : Number(step[0]);
  return { task, check: name, beyond: step.endsWith("+") };
}

/** How many checks of a task passed, and of those beyond it. */
export type Score = { task: number; passed: number; of: number; beyond: number; ofBeyond: number };

/** A score for each task. */
export function scoresOf(verdicts: Verdict[]): Score[] {
  const tasks = [...new Set(verdicts.map(({ task }) => task))];
  return tasks.map((task) => {
    const of = (beyond: boolean): Verdict[] =>
      verdicts.filter((verdict) => verdict.task === task && verdict.beyond === beyond);
    const passed = (beyond: boolean): number => of(beyond).filter(({ ok }) => ok).length;
    return {
      task,
      passed: passed(false),
      of: of(false).length,
      beyond: passed(true),
      ofBeyond: of(true).length,
    };
  });
}

/** Whether all that the tasks ask for passed; `strict`: and all beyond. */
export function isPassed(scores: Score[], { strict = false } = {}): boolean {
  return scores.every(({ passed, of, beyond, ofBeyond }) =>
    passed === of && (!strict || beyond === ofBeyond)
  );
}

// ---- Printing ----

/** A verdict for a terminal of 80 columns: a line, and for a `no` what to know below it. */
export function formatVerdict(verdict: Verdict): string {
  const { task, check, beyond, ok, sent, came, mistake } = verdict;
  const head = `${ok ? "ok" : ok === null ? "--" : "no"} ${task}${beyond ? "+" : " "} ${check}`;
  if (ok) {
    const end = fit(` → ${came}`, WIDTH / 2);
    return fit(`${head}: ${sent}`, WIDTH - end.length) + end;
  }
  if (ok === null) return fit(`${head}: ${came}`, WIDTH);
  return [head, ...wrap("sent", sent), ...wrap("came", came), ...wrap("often", mistake)].join("\n");
}

/** `text`, indented behind `label`, in lines that fit. */
function wrap(label: string, text: string): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > WIDTH - 14) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].map((line, i) =>
    `      ${(i === 0 ? `${label}:` : "").padEnd(7)}${line}`
  );
}

/** `text`, cut to so many columns; it has no character that takes more than one. */
function fit(text: string, columns: number): string {
  return text.length <= columns ? text : `${text.slice(0, columns - 1)}…`;
}

function formatScore({ task, passed, of, beyond, ofBeyond }: Score): string {
  const more = ofBeyond > 0 ? `, and beyond it ${beyond} of ${ofBeyond}` : "";
  return `task ${task}: ${passed} of ${of}${more}`;
}

// ---- Bytes and text ----

const LF = 0x0a;
const SHOWN_CHARS = 40; // of what was sent or came
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

function encode(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text);
}

function decode(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

function toBytes(data: Data): Uint8Array<ArrayBuffer> {
  return typeof data === "string" ? encode(data) : data;
}

function concat(chunks: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Bytes as Python would write them: `"Gr\xc3\xbc\xc3\x9fe\n"`; of long ones the start, and how many. */
function show(data: string | Uint8Array): string {
  const bytes = typeof data === "string" ? encode(data) : data;
  const names: Record<number, string> = { 9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\" };
  let text = "";
  for (const byte of bytes) {
    if (text.length > SHOWN_CHARS) return `"${text}…" (${bytes.length.toLocaleString("en")} bytes)`;
    const hex = `\\x${byte.toString(16).padStart(2, "0")}`;
    text += names[byte] ?? (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : hex);
  }
  return `"${text}"`;
}

function typed(line: string): string {
  return `typed ${show(line)}`;
}

/** Whether there is more in a text than a prompt such as `> `. */
function hasWords(text: string): boolean {
  return /\p{L}{2}/u.test(text);
}

/** Six letters that no program prints by itself: it holds none of the stop words. */
function randomWord(): string {
  const [consonants, vowels] = ["bdfgklmnprvz", "aiou"];
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return [...bytes].map((byte, i) => {
    const letters = i % 2 === 0 ? consonants : vowels;
    return letters[byte % letters.length]!;
  }).join("");
}

// ---- Addresses ----

/** A port of 127.0.0.1 that nobody has. */
function freePort(isTcp: boolean): number {
  const hostname = "127.0.0.1";
  if (isTcp) {
    using listener = Deno.listen({ hostname, port: 0 });
    return listener.addr.port;
  }
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  socket.close();
  return (socket.addr as Deno.NetAddr).port;
}

/** A port that stays without a listener: it is taken, by a connection. */
async function holdDeadPort(): Promise<{ port: number } & AsyncDisposable> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  return {
    port: conn.localAddr.port,
    [Symbol.asyncDispose]: async () => {
      conn.close();
      await listener.accept().then((conn) => conn.close());
      listener.close();
    },
  };
}

/** Whether a program has bound the port: no datagram would tell without being taken for one. */
function isUdpPortTaken(port: number): boolean {
  try {
    Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port }).close();
    return false;
  } catch {
    return true;
  }
}

/** Where to send from to `hostname`. */
function ownAddressFor(hostname: string): { hostname: string; port: number } {
  if (hostname.includes(":")) return { hostname: isLoopback(hostname) ? "::1" : "::", port: 0 };
  return { hostname: isLoopback(hostname) ? "127.0.0.1" : "0.0.0.0", port: 0 };
}

function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" || /^127(\.\d{1,3}){3}$/.test(hostname);
}

// ---- The command line ----

/** Wrong use: one line on stderr, exit code 2. */
export class UsageError extends Error {}

/** What a command line asks for. */
type Command = { options: GradeOptions; strict: boolean; json: boolean };

/** @throws UsageError that names what is wrong and what is allowed */
function parseCommand(args: string[]): Command | "help" {
  const end = [...args, "--"].indexOf("--");
  const flags = parseArgs(args.slice(0, end), {
    string: ["_", "task", "port", "stop"],
    boolean: ["strict", "allow-remote", "json", "help"],
    collect: ["stop"],
    alias: { h: "help" },
    unknown: (arg, key) => {
      if (key !== undefined) throw new UsageError(`unknown option "${arg}"; see --help`);
    },
  });
  if (flags.help) return "help";
  const [kind, address, ...others] = flags._.map(String);
  if (!/^(tcp|udp)-(server|client)$/.test(kind ?? "")) {
    throw new UsageError(
      `say tcp-server, udp-server, tcp-client or udp-client, not "${kind ?? ""}"`,
    );
  }
  if (others.length > 0) throw new UsageError(`unexpected "${others[0]}"; see --help`);
  const options: GradeOptions = { kind: kind as Kind };
  if (flags.task !== undefined) options.task = toNumber("task", flags.task as string, [1, 4]);
  if (flags.port !== undefined) options.port = toNumber("port", flags.port as string, [1, 65_535]);
  const stop = flags.stop as string[];
  if (stop.some((word) => word.trim() === "")) throw new UsageError("--stop needs a value, WORD");
  if (stop.length > 0) options.stop = stop;
  const command = args.slice(end + 1);
  if (address !== undefined && command.length > 0) {
    throw new UsageError(
      `give an address or a command, not both ("${address}" and "${command[0]}")`,
    );
  }
  if (address !== undefined) options.address = parseAddress(options.kind, address);
  else options.command = checkCommand(command, options);
  if (options.address && !isLoopback(options.address.hostname) && !flags["allow-remote"]) {
    const what = `"${address}" is not on this machine`;
    throw new UsageError(`${what}: --allow-remote, if it is yours to test`);
  }
  return { options, strict: flags.strict === true, json: flags.json === true };
}

function toNumber(name: string, text: string, [min, max]: [number, number]): number {
  const number = /^\d+$/.test(text) ? Number(text) : NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(`--${name} must be a whole number from ${min} to ${max}, not "${text}"`);
}

function parseAddress(kind: Kind, text: string): { hostname: string; port: number } {
  if (kind.endsWith("client")) {
    throw new UsageError(`a client is given as a command: ${kind} -- COMMAND…, not "${text}"`);
  }
  const [, hostname, port] = /^\[?([^[\]]+?)\]?:(\d+)$/.exec(text) ?? [];
  if (hostname === undefined) throw new UsageError(`an address is HOST:PORT, not "${text}"`);
  return { hostname, port: toNumber("the port", port!, [1, 65_535]) };
}

function checkCommand(command: string[], { kind, port }: GradeOptions): string[] {
  const place = kind.endsWith("server") ? "HOST:PORT or -- COMMAND…" : "-- COMMAND…";
  if (command.length === 0) throw new UsageError(`say what to grade: ${kind} ${place}`);
  if (port === undefined && !command.some((part) => part.includes("{port}"))) {
    throw new UsageError("put {port} where the command takes its port, or give its own by --port");
  }
  return command;
}

/** Ends the programs with the grader: their process groups are not the terminal's. */
function endWithSignals(): void {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    if (signal === "SIGTERM" && Deno.build.os === "windows") continue; // not to be had there
    Deno.addSignalListener(signal, () => {
      for (const program of running) program.kill();
      Deno.exit(code);
    });
  }
}

/** Grades what the command line asks for, prints the verdicts, and returns the exit code. */
export async function main(args: string[]): Promise<number> {
  const command = parseCommand(args);
  if (command === "help") {
    console.log(HELP.trimEnd());
    return 0;
  }
  const { options, strict, json } = command;
  endWithSignals();
  const print = (verdict: Verdict): void =>
    console.log(json ? JSON.stringify(verdict) : formatVerdict(verdict));
  const scores = scoresOf(await grade({ ...options, onVerdict: print }));
  const passed = isPassed(scores, { strict });
  if (json) {
    console.log(JSON.stringify({ scores, passed }));
  } else {
    for (const score of scores) console.log(formatScore(score));
  }
  return passed ? 0 : 1;
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    console.error(`${NAME}: ${error instanceof Error ? error.message : error}`);
    Deno.exit(2); // nothing was graded
  }
}
