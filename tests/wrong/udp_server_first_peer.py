# Mistake: all replies go to the peer that came first.
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
client = None
while True:
    sentence, peer = server.recvfrom(65507)
    print(sentence.decode(errors="replace"))
    client = client or peer
    server.sendto(sentence, client)
