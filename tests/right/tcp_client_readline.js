// Node: readline with a prompt, as at any terminal.
const net = require("node:net");
const readline = require("node:readline");

const socket = net.connect(Number(process.argv[2]), "127.0.0.1");
const keyboard = readline.createInterface({ input: process.stdin, output: process.stdout });
keyboard.setPrompt("you> ");
socket.on("connect", () => keyboard.prompt());
keyboard.on("line", (line) => socket.write(line + "\n"));
keyboard.on("close", () => socket.end());
socket.on("data", (data) => {
  console.log("server> " + data.toString().trimEnd());
  keyboard.prompt();
});
socket.on("close", () => {
  console.log("connection closed");
  process.exit();
});
socket.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
