/**
 * Takes the steps of a check of a client, one after the other, as its user and its server, and keeps
 * what is seen.
 *
 * @module
 */

import type { Check, ClientStep } from "./checks.ts";
import type { Evidence, Wants } from "./diagnosis.ts";
import {
  Failed,
  listSent,
  NOT_WAITED,
  type Outcome,
  type Pace,
  waitedSince,
  Words,
} from "./outcome.ts";
import { type Looks, SILENT, START_LOOK_MS } from "./program.ts";
import type { Message, Stage } from "./stage.ts";
import { concat, decode, encode, errorLine, hasWords, plain, show, withoutBytes } from "./text.ts";

const FIRST_MS = 15_000; // for a client to start and to send its first sentence
const ANSWER_MS = 4_000; // for what it sends, prints or does: what a busy machine takes, and more
const LOST_MS = 6_000; // for a client to miss a datagram: its timeout, and a margin
const UNSEEN_MS = 1_000; // for a time limit that does not show in the call that waits
const STOP_MS = 1_000; // for what a program may do or not, before the grader goes on
const SILENCE_MS = 300; // in which nothing comes: a late one that is missed wrongs nobody
const REFUSED_MS = 1_500; // for a client to show something else than an echo, or not

/** Takes the steps of a check of a client. */
export class ClientRun {
  readonly #stage: Stage;
  readonly #pace: Pace;
  readonly #usual: Check["usual"];
  readonly #words: Words;
  readonly #sent: string[] = [];
  #heard: Message | undefined;
  #mark = 0;
  #came = "";
  #shown = 0; // times that a word was printed
  #waited = NOT_WAITED; // in vain, of late

  constructor(
    check: Check<ClientStep>,
    { stage, stop, pace }: { stage: Stage; stop: string; pace: Pace },
  ) {
    this.#stage = stage;
    this.#pace = pace;
    this.#usual = check.usual;
    this.#words = new Words({ lf: "", stop });
  }

  /** @throws Failed */
  async take(check: Check<ClientStep>): Promise<Outcome> {
    for (const step of check.steps) await this.#take(step);
    return { sent: listSent(this.#sent), came: this.#came };
  }

  get #output(): string {
    return this.#stage.program.output;
  }

  /** Waits until `isDone`, as long as the program may still do something. */
  async #until(isDone: () => boolean, ms = ANSWER_MS, looks: Looks = {}): Promise<boolean> {
    const start = performance.now();
    const result = await this.#stage.program.until(isDone, ms, looks);
    this.#waited = result ? NOT_WAITED : waitedSince(start, ms);
    return result;
  }

  #fail(wants: Wants, seen: Partial<Evidence> & { how?: string } = {}): never {
    const { program, isUdp } = this.#stage;
    const came = seen.came ?? new Uint8Array();
    const evidence: Evidence = {
      side: "client",
      isUdp,
      wants,
      usual: this.#usual,
      expected: new Uint8Array(),
      came,
      ended: "",
      ...this.#waited,
      exit: program.hasEnded
        ? { code: program.exitCode!, words: errorLine(program.output) }
        : undefined,
      ...seen,
    };
    const what = wants === "shown" ? "printed: " : "";
    const end = program.hasEnded ? `; ${program.describeEnd()}` : "";
    const how = came.length > 0 ? show(came) : seen.how ?? "nothing";
    throw new Failed({ sent: this.#sent.at(-1) ?? "", came: `${what}${how}${end}`, evidence });
  }

  async #take(step: ClientStep): Promise<void> {
    const stage = this.#stage;
    const { program } = stage;
    const hasEnded = (): boolean => program.hasEnded;
    const text = "text" in step ? this.#words.fill(step.text) : "";
    switch (step.do) {
      case "type":
        this.#sent.push(`typed ${show(text)}`);
        for (const line of text.split("\n")) await program.type(line);
        return;
      case "hear":
        return await this.#hear(text, step.then && this.#words.fill(step.then));
      case "hearOrEnd":
        await stage.next(text, { ms: ANSWER_MS, isReply: true });
        return;
      case "reply":
        return await this.#reply(text);
      case "show":
      case "showText":
        return await this.#show(text, { isText: step.do === "showText" });
      case "showAgain":
        return await this.#showAgain(text, this.#words.fill(step.decoy));
      case "mayShow":
        return await this.#mayShow(text);
      case "answerOther":
        return await this.#answerOther(text);
      case "stranger":
        return await stage.replyAsStranger(this.#heard!.text.replace(/\S+ \S+/, text));
      case "silence":
        return await this.#silence();
      case "replyAll":
        return await stage.replyAll();
      case "replyBlanks":
        return await this.#replyBlanks();
      case "loss":
        return await this.#loss();
      case "endInput":
        this.#sent.push("the end of input");
        return await program.endInput();
      case "mayEnd": // whoever closes first keeps the port in TIME-WAIT
        return void await stage.waits.until(
          () => hasEnded() || stage.isHalfClosed,
          SILENCE_MS,
        );
      case "hangUp":
        this.#mark = program.mark();
        return await stage.hangUp();
      case "giveUp": // it may ask again whether to go on
        if (!await this.#until(hasEnded)) await program.endInput();
        return;
      case "awaitDrain": // it drains its echoes, and ends with the server's end
        await this.#until(() => stage.isHalfClosed || hasEnded());
        await stage.replyAll();
        if (stage.isHalfClosed) await stage.hangUp();
        return;
      case "exit":
        if (!await this.#until(hasEnded)) this.#fail("exit", { how: "no end" });
        this.#came = program.describeEnd();
        return;
      case "word":
        if (program.exitCode === 0 && !hasWords(program.since(this.#mark))) {
          this.#fail("word", { exit: undefined, usual: "endsWithoutWord" });
        }
    }
  }

  /** A sentence arrives, with or without a line end; `then`: or two that were typed at once. */
  async #hear(sentence: string, then: string | undefined): Promise<void> {
    const times = this.#heard ? { ms: ANSWER_MS } : { ms: FIRST_MS, firstMs: START_LOOK_MS };
    const start = performance.now();
    const message = await this.#stage.next(sentence, { ...times, then });
    this.#waited = waitedSince(start, times.ms);
    const isRight = message && isSentence(message.text, sentence, then);
    if (!isRight || message.isReconnected) {
      this.#fail("sentence", {
        expected: encode(sentence),
        came: withoutLineEnd(message?.bytes),
        isReconnected: message?.isReconnected ?? false,
      });
    }
    this.#heard = message!;
    this.#came = show(message!.bytes);
    if (then === undefined) return;
    await this.#reply("");
    if (!message!.text.includes(then)) {
      await this.#hear(then, undefined);
      await this.#reply("");
    }
  }

  async #reply(text: string): Promise<void> {
    if (!this.#stage.echoes) return;
    const { bytes, reply } = this.#heard!;
    const lineEnd = /\r?\n$/.exec(decode(bytes))?.[0] ?? "";
    const isRest = text.startsWith(" ");
    await reply(text === "" ? bytes : encode(isRest ? text + lineEnd : text));
  }

  async #show(word: string, { isText }: { isText: boolean }): Promise<void> {
    const { program } = this.#stage;
    const isShown = (): boolean =>
      (isText ? withoutBytes(this.#output) : this.#output).includes(word);
    const start = performance.now();
    await this.#until(() => isShown() || program.hasEnded);
    if (!isShown()) this.#fail("shown", { expected: encode(word), came: encode(this.#output) });
    this.#pace.saw(performance.now() - start);
    this.#shown = this.#count(word);
    this.#came = "sent, its echo printed";
  }

  #count(word: string): number {
    return this.#output.split(word).length - 1;
  }

  /** Printed as often as the word before was, so that what was typed does not count. */
  async #showAgain(word: string, decoy: string): Promise<void> {
    const { program } = this.#stage;
    const isShown = (): boolean => this.#count(word) >= Math.max(1, this.#shown);
    await this.#until(() => isShown() || program.hasEnded);
    this.#came = "its echo printed";
    if (isShown()) return;
    this.#fail("shown", { expected: encode(word), came: encode(this.#output), decoy });
  }

  /** Until a part of an echo is printed, or a while later. */
  async #mayShow(word: string): Promise<void> {
    await this.#until(() => this.#count(word) > 0, STOP_MS);
    this.#shown = this.#count(word);
  }

  /** The server answers with other words, so that a client that prints its own input is found. */
  async #answerOther(answer: string): Promise<void> {
    const { program } = this.#stage;
    const { text, bytes, reply } = this.#heard!;
    const [typed, other] = [text.trim().split(" ").at(-1)!, answer.split(" ").at(-1)!];
    this.#sent.push(`${this.#sent.at(-1)}, answered ${show(answer)}`);
    const mark = program.mark();
    await reply(encode(decode(bytes).replace(typed, other)));
    const isShown = (): boolean => this.#output.includes(other);
    // A client that compares echoes may refuse a wrong one: it reports it, ends, or sends again.
    const isRefused = (): boolean => this.#stage.hasMore || (program.exitCode ?? 0) !== 0;
    if (!await this.#until(() => isShown() || isRefused(), REFUSED_MS)) {
      // It shows nothing of an answer that is no echo, unless it shows what was typed.
      if (!this.#output.includes(typed)) return void (this.#came = "not shown, as it is no echo");
      await this.#until(() => isShown() || isRefused(), ANSWER_MS - REFUSED_MS);
    }
    this.#came = isShown() ? `${show(other)} printed` : "refused, as it is no echo";
    if (isShown() || isRefused()) return;
    const shown = encode(program.since(mark) || this.#output);
    this.#fail("shown", { expected: encode(other), came: shown, decoy: typed });
  }

  async #silence(): Promise<void> {
    const { program } = this.#stage;
    if (!await program.until(() => this.#stage.hasMore, SILENCE_MS, SILENT)) return;
    const { bytes } = this.#heard!;
    const all = concat([bytes, this.#stage.rest()]);
    this.#fail("sentence", { expected: encode(decode(bytes).trimEnd()), came: all });
  }

  /** An empty sentence may be sent as a line end, as an empty datagram, or not at all. */
  async #replyBlanks(): Promise<void> {
    const { program } = this.#stage;
    await this.#until(() => this.#stage.hasMore || program.hasEnded);
    await this.#stage.replyBlanks();
  }

  /** The first datagram gets no answer: it, or its echo, was lost. */
  async #loss(): Promise<void> {
    const { program } = this.#stage;
    this.#sent.push(`${this.#sent.at(-1)}, no answer to the first`);
    await this.#stage.waits.until(() => this.#stage.hasMore, SILENCE_MS);
    const mark = program.mark(); // what it prints when it sends is behind us
    const hasNoticed = (): boolean =>
      this.#stage.hasMore || program.hasEnded || hasWords(program.since(mark));
    await this.#until(hasNoticed, LOST_MS, { firstMs: UNSEEN_MS, mayHide: true });
    if (this.#stage.hasMore) {
      await this.#stage.replyAll();
      this.#came = "sent again, its echo printed";
      return await this.#show(this.#heard!.text.trim().split(" ").at(-1)!, { isText: false });
    }
    this.#came = show(plain(program.since(mark)));
    if (!hasNoticed()) this.#fail("sentence", { usual: this.#usual });
  }
}

function withoutLineEnd(bytes = new Uint8Array()): Uint8Array {
  const end = [...bytes.subarray(-2)].map((byte) => String.fromCharCode(byte)).join("");
  return bytes.subarray(0, bytes.length - (/\r?\n$/.exec(end)?.[0].length ?? 0));
}

/** Whether `text` is the sentence (or both sentences) with or without line ends. */
function isSentence(text: string, sentence: string, then: string | undefined): boolean {
  const lines = text.replace(/^[\r\n]+|\r?\n$/g, "");
  return lines === sentence ||
    (then !== undefined && lines.replace(/\r?\n/, "") === sentence + then);
}
