# The stop word is answered by a goodbye, and ends the server: the handout says no more of UDP.
import socket
import sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    data, peer = sock.recvfrom(2048)
    sentence = data.decode()
    print("received", sentence)
    if sentence.strip() == "stop":
        sock.sendto(b"bye", peer)
        break
    sock.sendto(data, peer)
