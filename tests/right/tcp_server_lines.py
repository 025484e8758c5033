# A server that reads lines, prints a prefix, knows "exit" only, and ends each line as it came.
import socketserver
import sys


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            print("client says >", line.decode(errors="replace").rstrip())
            self.wfile.write(line)
            if line.strip() == b"exit":
                break


socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer.daemon_threads = True
socketserver.ThreadingTCPServer(("", int(sys.argv[1])), Lines).serve_forever()
