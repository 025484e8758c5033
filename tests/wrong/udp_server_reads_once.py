# Mistake: recvfrom() is called once.
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
sentence, client = server.recvfrom(65507)
print(sentence.decode(errors="replace"))
server.sendto(sentence, client)
