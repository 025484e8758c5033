# All that it prints goes to stderr, through logging.
import logging
import socketserver
import sys

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            text = line.decode(errors="replace").rstrip("\r\n")
            logging.info("from %s: %s", self.client_address[0], text)
            self.wfile.write(line)
            if text in ("stop", "quit", "exit"):
                return


socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer.daemon_threads = True
with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
    server.serve_forever()
