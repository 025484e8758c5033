// The whole UDP server: any datagram, any peer, and no error ends it.
// Outside this repository it needs --unstable-net.
const STOP_WORD = /^[ \t\v\f\r\n]*(stop|exit)[ \t\v\f\r\n]*$/;
const MAX_DATAGRAM = 65507; // bytes: 65,535 less the IP and UDP headers

const port = Number(Deno.args[0] ?? 12000);

// Step 1: create a UDP socket.
// Step 2: choose a port number and IP address, and attach the socket to them.
const socket = Deno.listenDatagram({
  hostname: "127.0.0.1",
  port,
  transport: "udp",
});
console.log("ready on port", port);

// Steps 3 and 4: none. No connection is required.

const buffer = new Uint8Array(MAX_DATAGRAM);
while (true) {
  try {
    // Step 5: receive data, and send it back to where it came from.
    const [data, address] = await socket.receive(buffer);
    const client = address as Deno.NetAddr;
    if (client.port < 1024 || client.port === port) {
      continue; // another server: the two would answer each other for ever
    }
    const name = `${client.hostname}:${client.port}`;
    const sentence = new TextDecoder().decode(data);
    console.log(`[${name}] ${sentence.replace(/\r?\n$/, "")}`);
    await socket.send(data, client);
    if (STOP_WORD.test(sentence)) console.log(`[${name}] has stopped`);
  } catch (error) { // of one peer; the others go on
    console.log("not answered:", (error as Error).message);
  }
}

// Step 6: none. There is one socket, for all clients; Ctrl-C closes it.
