# Mistake: the reply leaves from another socket.
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sentence, client = server.recvfrom(65507)
    print(sentence.decode(errors="replace"))
    other.sendto(sentence, client)
