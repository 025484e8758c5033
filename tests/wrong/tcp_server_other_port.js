// Mistake: the port that it is given is not the one it listens on.
require("node:net").createServer((socket) => socket.pipe(socket)).listen(23821, "127.0.0.1");
