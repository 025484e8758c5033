/**
 * The mistakes that the grader knows, in the words of this lab.
 *
 * @module
 */

/** Each mistake by its key, which stays the same, and in words. */
export const MISTAKES = {
  // Servers
  unreachable: "nobody listens there: bind() the port that was given, then listen(); start first",
  portInUse: "its port was taken when it called bind(): end the earlier one, or set SO_REUSEADDR",
  crashes: "it ended with an error: its own words say which",
  repeatsEarlier: "it gives back an earlier sentence: echo what this recv() gave",
  keepsOldBytes: "it gives back the rest of a longer sentence: send as many bytes as recv() gave",
  closesEarly: "it closes although no stop word came: the loop goes on until one does",
  changesBlanks:
    "it changes the blanks of a sentence: an echo has them all (no split(), no strip())",
  changesCase: "it changes the case of letters: an echo is what came",
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
  sentenceBlanks: "it changes the blanks of what is typed: send the sentence as it is",
  showsBytes: "it prints b'…', the bytes: decode() makes text of them",
  sendsPart:
    "it sends a part, or in parts: the whole sentence belongs in one sendall() or sendto()",
  sendsTwice: "it sends the sentence more than once",
  endsUnasked: "it ends before it is done: an exception, or input() and recv() are in no loop",
  ignoresRefusal: "without a server it neither ends nor reports it: print connect()'s error",
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
  noTimeout: "it waits for ever for a lost datagram: settimeout(), then send again, or report it",
  believesStranger: "it takes a datagram of anybody for the echo: compare recvfrom()'s address",
  leavesAtWordInside: "it ends at a sentence that has the word inside: compare the whole",
  believesDuplicate: "it takes a late copy of an old echo for the new one: compare the bytes",
} as const;

/** The key of a mistake. */
export type Mistake = keyof typeof MISTAKES;
