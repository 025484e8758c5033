# It thinks for half a second about each answer.
import socketserver
import sys
import time


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        time.sleep(0.5)
        print(self.client_address, data.decode(errors="replace"))
        sock.sendto(data, self.client_address)


with socketserver.UDPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
    server.max_packet_size = 65535
    server.serve_forever()
